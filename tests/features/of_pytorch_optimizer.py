"""What pytorch_optimizer has; torch's schedulers, averages, scalers and sharding go with it, as is probed."""

import pytest

from tests.features.of_torch import Torch, falls, one, step, torch

po = pytest.importorskip("pytorch_optimizer", reason="it is in the extra 'parity': make test-parity")


class PytorchOptimizer(Torch):
    modules = (*Torch.modules, po)
    Adam, AdamW, LBFGS = po.Adam, po.AdamW, po.LBFGS

    def optimizers(self):
        return len(po.get_supported_optimizers())

    def lars_and_lamb(self):
        """A step goes by the norm of its layer."""
        found = []
        for make in (po.LARS, po.Lamb):
            small, large = (
                torch.nn.Parameter(torch.full((4, 4), size)) for size in (0.1, 1.0)
            )  # Lamb bounds norms by 10
            optimizer = make([small, large], lr=0.1)
            small.grad = torch.arange(1.0, 17.0).reshape(4, 4)
            large.grad = 3 * small.grad
            optimizer.step()
            ratio = (large.detach() - 1).norm() / (small.detach() - 0.1).norm()
            found.append(bool(abs(ratio - 10) < 0.1))
        return all(found)

    def muon(self):
        return falls(lambda ps: po.Muon([{"params": ps, "use_muon": True}], lr=0.05))

    def schedule_free(self):
        sam = lambda ps: po.SAM(ps, torch.optim.SGD, lr=0.1)
        return all(
            map(falls, (lambda ps: po.ScheduleFreeSGD(ps, lr=0.2), lambda ps: po.Prodigy(ps, lr=1.0), sam))
        )

    def shampoo(self):
        return falls(lambda ps: po.SOAP(ps, lr=0.05)) and falls(lambda ps: po.Shampoo(ps, lr=0.05))

    def losses(self):
        found = po.BCELoss()(torch.tensor([0.5]), torch.tensor([1.0]))
        return bool(torch.isclose(found, torch.tensor(2.0).log(), atol=1e-3))

    def sparse(self):
        return super().sparse(po.SM3)

    def chain(self):
        """Lookahead goes around another optimizer."""
        p = one(1.0)
        step(po.Lookahead(po.AdamW([p], lr=0.1)), p, 1.0)
        return "wrappers" if (p < 1).all() else False

    def second_moment(self):
        if super().second_moment():
            return True
        wrapped = po.SafeFP16Optimizer(po.AdamW([one(0.0, torch.bfloat16)], lr=0.125, weight_decay=0.0))
        (copy,) = wrapped.fp32_params
        for _ in range(3000):
            copy.data.zero_()
            step(wrapped.optimizer, copy, 1.0)
        return "by float32 copies" if (abs(-copy / 0.125 - 1) < 0.05).all() else False

    def small_stepped(self, ps):
        return po.StableAdamW(ps, lr=1e-4, weight_decay=0.0, kahan_sum=True)

    def in_eight_bits(self, ps):
        return po.FlashAdamW(ps)
