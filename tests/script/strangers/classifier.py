"""An image classifier whose batch norms are frozen while the rest trains; the learning rate goes down."""

import torch
from torch import nn


class GlobalNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = 1e-6

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip
        self.norm = GlobalNorm(16)
        self.fc = nn.Linear(16, 5)

    def forward(self, images):
        return self.fc(self.norm(self.features(images).mean((2, 3))))


def freeze_batch_norm(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad = False


torch.manual_seed(0)
model = Classifier()
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5)
model.train()
freeze_batch_norm(model)
for _step in range(10):
    images, labels = torch.randn(4, 3, 16, 16), torch.randint(0, 5, (4,))
    loss = nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    schedule.step()
    print(f"loss {loss.item():.6f}")
print("seen", *(int(m.num_batches_tracked) for m in model.modules() if isinstance(m, nn.BatchNorm2d)))
print("random", torch.rand(1).item())
