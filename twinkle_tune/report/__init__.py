"""Reports: profiles as terminal tables, Markdown, HTML pages with plots, images, CSV, Parquet or JSON."""
