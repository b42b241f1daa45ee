"""Past one device: contests spread over the devices of a cluster, and many models one after another."""
