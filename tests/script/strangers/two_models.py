"""A generator and a discriminator that train each other."""

import torch
from torch import nn


class Scale(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = 1e-6

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), Scale(16), nn.LeakyReLU(0.2), nn.Linear(16, 8), nn.Tanh())

    def forward(self, noise):
        return self.net(noise)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def forward(self, x):
        return self.net(x).squeeze(-1)


torch.manual_seed(0)
generator, discriminator = Generator(), Discriminator()
for_generator = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
for_discriminator = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
bce = nn.BCEWithLogitsLoss()
for _step in range(8):
    real = torch.randn(16, 8).clamp(-1, 1)
    fake = generator(torch.randn(16, 4))
    for_discriminator.zero_grad()
    loss_d = bce(discriminator(real), torch.ones(16)) + bce(discriminator(fake.detach()), torch.zeros(16))
    loss_d.backward()
    for_discriminator.step()
    for_generator.zero_grad()
    loss_g = bce(discriminator(fake), torch.ones(16))
    loss_g.backward()
    for_generator.step()
    print(f"loss {loss_d.item():.6f} {loss_g.item():.6f}")
print("random", torch.rand(1).item())
