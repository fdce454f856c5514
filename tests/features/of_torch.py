"""What torch has: its optimizers, and what goes with them."""

import importlib
import pickle
import warnings

import pytest

torch = pytest.importorskip("torch", reason="torch is in the extra 'parity': make test-parity")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch.jit warns of itself
    sharded = importlib.import_module("torch.distributed.optim")


def one(value, dtype=torch.float32, size=4):
    """A parameter of equal elements."""
    return torch.nn.Parameter(torch.full((size,), value, dtype=dtype))


def step(optimizer, p, grad):
    p.grad = torch.full_like(p, grad)
    optimizer.step()


def falls(make):
    """Is the way to a target at least halved in 100 steps?"""
    target, p = torch.eye(4), torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = make([p])

    def closure():
        optimizer.zero_grad()
        loss = ((p - target) ** 2).sum() / 2
        loss.backward()
        return loss

    for _ in range(100):
        optimizer.step(closure)
    return bool((p - target).norm() < 0.5 * target.norm())


class Torch:
    modules = (
        torch.optim,
        torch.optim.lr_scheduler,
        torch.optim.swa_utils,
        torch.amp,
        sharded,
    )
    Adam, AdamW, LBFGS = torch.optim.Adam, torch.optim.AdamW, torch.optim.LBFGS

    def has(self, *words):
        """Does any public name have one of the words in it?"""
        names = [n.lower() for m in self.modules for n in dir(m) if n[0] != "_"]
        return any(word in name for word in words for name in names)

    def optimizers(self):
        public = [getattr(torch.optim, name) for name in dir(torch.optim)]
        return (
            sum(isinstance(x, type) and issubclass(x, torch.optim.Optimizer) for x in public) - 1
        )  # Optimizer

    def lars_and_lamb(self):
        return hasattr(torch.optim, "LARS") or hasattr(torch.optim, "Lamb")

    def muon(self):
        return falls(lambda ps: torch.optim.Muon(ps, lr=0.05))

    def schedule_free(self):
        return self.has("schedulefree", "prodigy", "dadapt")

    def shampoo(self):
        return self.has("shampoo", "soap")

    def lbfgs(self):
        p = torch.nn.Parameter(torch.tensor([-1.2, 1.0]))
        optimizer = self.LBFGS([p], max_iter=100, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
            loss.backward()
            return loss

        for _ in range(5):
            optimizer.step(closure)
        return bool(torch.allclose(p.detach(), torch.ones(2), atol=1e-2))

    def losses(self):
        found = torch.nn.functional.cross_entropy(torch.zeros(2), torch.tensor(0))
        return (
            "torch.nn" if torch.isclose(found, torch.tensor(2.0).log()) and not self.has("entropy") else False
        )

    def sparse(self, make=torch.optim.SparseAdam):
        """The row that was looked up moves, and no other."""
        table = torch.nn.Embedding(3, 2, sparse=True)
        before = table.weight.detach().clone()
        optimizer = make(table.parameters(), lr=0.1)
        table(torch.tensor([1])).sum().backward()
        optimizer.step()
        return (table.weight != before).any(1).tolist() == [False, True, False]

    def kernels(self):
        """`fused` is asked for, and gives what a loop over operations gives."""
        ends = []
        for fused in (False, True):
            p = one(1.0)
            step(self.AdamW([p], fused=fused), p, 1.0)
            ends.append(p.detach())
        return "`fused=True`" if torch.allclose(*ends) else False

    def chain(self):
        """An optimizer takes parameters, and no optimizer."""
        try:
            self.AdamW(torch.optim.SGD([one(1.0)]))
        except TypeError:
            return False
        return True

    def rule(self):
        return self.has("leafwise", "elementwise")

    def equality(self):
        p = one(1.0)
        make = lambda: self.AdamW([p], lr=1e-3)
        return pickle.loads(pickle.dumps(make())) == make() or make() == make()

    def fixed_state(self):
        p = one(1.0)
        optimizer = self.AdamW([p])
        before = len(optimizer.state_dict()["state"])
        step(optimizer, p, 1.0)
        return before == len(optimizer.state_dict()["state"])

    def second_moment(self):
        """Under a constant gradient a step has the length of the learning rate."""
        p = one(0.0, torch.bfloat16)
        optimizer = self.AdamW([p], lr=0.125, weight_decay=0.0)
        for _ in range(3000):
            p.data.zero_()
            step(optimizer, p, 1.0)
        return bool((abs(-p / 0.125 - 1) < 0.05).all())

    def small_steps(self):
        """Do 100 steps of 1e-4 lead from 1 to 0.99?"""
        p = one(1.0, torch.bfloat16)
        optimizer = self.small_stepped([p])
        for _ in range(100):
            step(optimizer, p, 1.0)
        return bool(abs(p.detach().float().mean() - 0.99) < 3e-3)

    def small_stepped(self, ps):
        return torch.optim.AdamW(ps, lr=1e-4, weight_decay=0.0)

    def eight_bits(self):
        """Bytes of the state for each parameter."""
        p = one(1.0, torch.bfloat16, 4096)
        optimizer = self.in_eight_bits([p])
        step(optimizer, p, 1.0)
        slots = [x for x in optimizer.state[p].values() if isinstance(x, torch.Tensor)]
        return sum(x.nbytes for x in slots) / 4096 < 2.2

    def in_eight_bits(self, ps):
        return torch.optim.AdamW(ps)

    def weighted(self):
        """Gradients 1 and 4 of 3 tokens and 1: the mean is 1.75, if one divides by all tokens before."""
        p = one(0.0)
        for g, tokens in ((1.0, 3), (4.0, 1)):
            (g * p.sum() * tokens / 4).backward()
        return "by hand" if torch.allclose(p.grad, torch.tensor(1.75)) and not self.has("accumul") else False

    def skipping(self):
        """A gradient of NaN moves nothing."""
        p = one(1.0)
        optimizer, scaler = self.AdamW([p]), torch.amp.GradScaler("cpu")
        scaler.scale((p * torch.nan).sum()).backward()
        scaler.step(optimizer)
        return bool((p == 1).all()) and len(optimizer.state) == 0

    def groups(self):
        head, body = one(0.0), one(0.0)
        optimizer = self.AdamW([{"params": [head], "lr": 1.0}, {"params": [body]}], lr=0.1)
        head.grad, body.grad = torch.ones(4), torch.ones(4)
        optimizer.step()
        return "by object" if torch.allclose(head, 10 * body) else False

    def unused_group(self):
        try:
            self.AdamW([{"params": [one(0.0)]}, {"params": [], "lr": 1.0}])
        except ValueError:
            return True
        return False

    def one_cycle(self):
        """At the highest rate the momentum is lowest."""
        p = one(0.0)
        optimizer = self.AdamW([p])
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, 100)
        seen = []
        for _ in range(99):
            seen.append((optimizer.param_groups[0]["lr"], -optimizer.param_groups[0]["betas"][0]))
            step(optimizer, p, 1.0)
            scheduler.step()
        rates, momenta = zip(*seen, strict=True)
        return rates.index(max(rates)) == momenta.index(max(momenta)) > 0

    def searching(self):
        return self.has("range_test", "rangetest", "lr_find", "lrfind", "early_stop", "earlystop")

    def averages(self):
        """Parameters 1, 2, 3 have the mean 2."""
        model = torch.nn.Linear(1, 1)
        averaged, optimizer = torch.optim.swa_utils.AveragedModel(model), self.AdamW(model.parameters(), 1e-3)
        for value in (1.0, 2.0, 3.0):
            optimizer.step()
            model.weight.data.fill_(value)
            averaged.update_parameters(model)
        return averaged.module.weight.item() == 2.0

    def zero(self):
        p = one(1.0)
        torch.distributed.init_process_group(
            "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )
        try:
            step(sharded.ZeroRedundancyOptimizer([p], optimizer_class=self.AdamW, lr=0.1), p, 1.0)
        finally:
            torch.distributed.destroy_process_group()
        return bool((p < 1).all())

    def migration(self):
        """From Adam to AMSGrad, with its moments."""
        p = one(1.0)
        adam, amsgrad = self.Adam([p]), self.Adam([p], amsgrad=True)
        step(adam, p, 1.0)
        groups = amsgrad.state_dict()["param_groups"]
        amsgrad.load_state_dict({"state": adam.state_dict()["state"], "param_groups": groups})
        try:
            step(amsgrad, p, 1.0)
        except KeyError:
            return False
        return True

    def cost(self):
        return self.has("cost", "flops")
