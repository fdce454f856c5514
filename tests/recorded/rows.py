"""The calls of PyTorch and of Keras that gradx is held against: by themselves, and by their numbers in files.

`python -m tests.recorded` writes the files, where both are installed.
"""

TORCH = [
    ("SGD", {}),
    ("SGD", dict(lr=0.1, weight_decay=0.1)),
    ("SGD", dict(lr=0.1, momentum=0.9)),
    ("SGD", dict(lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.1)),
    ("SGD", dict(lr=0.1, momentum=0.9, nesterov=True, maximize=True)),
    ("Adagrad", {}),
    ("Adagrad", dict(lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.5, eps=1e-3)),
    ("RMSprop", {}),
    ("RMSprop", dict(centered=True, eps=1e-4, alpha=0.9)),
    ("RMSprop", dict(momentum=0.9, weight_decay=0.1)),
    ("RMSprop", dict(momentum=0.9, centered=True, eps=1e-4, maximize=True)),
    ("Adadelta", {}),
    ("Adadelta", dict(lr=0.5, rho=0.8, weight_decay=0.1)),
    ("Adafactor", {}),
    ("Adafactor", dict(lr=0.1, eps=(1e-6, 1e-2), d=1.5, weight_decay=0.1, maximize=True)),
    ("Adam", {}),
    ("Adam", dict(lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)),
    ("Adam", dict(lr=0.01, amsgrad=True, weight_decay=0.1)),
    ("Adam", dict(lr=0.1, betas=(0.9, 0.9), eps=1e-3, amsgrad=True)),
    ("Adam", dict(decoupled_weight_decay=True, weight_decay=0.1, maximize=True)),
    ("AdamW", {}),
    ("AdamW", dict(lr=0.01, weight_decay=0.1, amsgrad=True)),
    ("NAdam", {}),
    ("NAdam", dict(betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1, momentum_decay=1.0)),
    ("NAdam", dict(weight_decay=0.1, decoupled_weight_decay=True)),
    ("RAdam", {}),
    ("RAdam", dict(betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)),
    ("RAdam", dict(weight_decay=0.1, decoupled_weight_decay=True)),
    ("Adamax", {}),
    ("Adamax", dict(betas=(0.8, 0.95), eps=0.01, weight_decay=0.1)),
    ("Rprop", {}),
    ("Rprop", dict(etas=(0.3, 1.5), step_sizes=(1e-3, 0.05))),
    ("ASGD", {}),
    ("ASGD", dict(lr=0.1, lambd=0.01, t0=10, weight_decay=0.1)),
]

KERAS = [
    ("SGD", {}),
    ("SGD", dict(momentum=0.9, weight_decay=0.1)),
    ("SGD", dict(momentum=0.9, nesterov=True, clipvalue=0.5)),
    ("RMSprop", {}),
    ("RMSprop", dict(momentum=0.9, centered=True, epsilon=1e-3)),
    ("Adagrad", {}),
    ("Adadelta", dict(weight_decay=0.1)),
    ("Adafactor", {}),
    ("Adafactor", dict(learning_rate=0.5, weight_decay=0.1, epsilon_2=0.5, clip_threshold=0.8)),
    ("Adam", {}),
    ("Adam", dict(amsgrad=True, global_clipnorm=1.0)),
    ("AdamW", dict(clipnorm=1.0)),
    ("AdamW", dict(learning_rate=0.01, weight_decay=0.1, amsgrad=True)),
    ("Adamax", {}),
    ("Nadam", {}),
    ("Lion", dict(weight_decay=0.1)),
    ("Lamb", dict(weight_decay=0.1)),
]

# A scheduler, its arguments, and how many steps of it are compared.
RATES = [
    ("StepLR", dict(step_size=7), 50),
    ("StepLR", dict(step_size=1, gamma=0.9), 50),
    ("MultiStepLR", dict(milestones=[30, 12, 12], gamma=0.3), 50),
    ("ConstantLR", dict(), 20),
    ("ConstantLR", dict(factor=0.5, total_iters=9), 20),
    ("LinearLR", dict(), 20),
    ("LinearLR", dict(start_factor=0.1, end_factor=0.7, total_iters=30), 50),
    ("ExponentialLR", dict(gamma=0.95), 100),
    ("PolynomialLR", dict(), 20),
    ("PolynomialLR", dict(total_iters=40, power=2.0), 60),
    ("PolynomialLR", dict(total_iters=40, power=0.5), 60),
    ("CosineAnnealingLR", dict(T_max=40), 200),
    ("CosineAnnealingLR", dict(T_max=7, eta_min=0.02), 100),
    ("CosineAnnealingWarmRestarts", dict(T_0=10), 60),
    ("CosineAnnealingWarmRestarts", dict(T_0=5, T_mult=2, eta_min=0.01), 200),
    ("CosineAnnealingWarmRestarts", dict(T_0=1, T_mult=3), 100),
    ("LambdaLR", dict(lr_lambda=lambda step: 0.95**step), 50),
]

# With momenta.
PAIRS = [
    ("OneCycleLR", dict(max_lr=0.3, total_steps=101)),
    ("OneCycleLR", dict(max_lr=0.3, epochs=4, steps_per_epoch=25, anneal_strategy="linear")),
    ("OneCycleLR", dict(max_lr=0.3, total_steps=100, three_phase=True, pct_start=0.37)),
    (
        "OneCycleLR",
        dict(max_lr=0.3, total_steps=100, three_phase=True, anneal_strategy="linear", pct_start=0.251),
    ),
    ("OneCycleLR", dict(max_lr=0.3, total_steps=100, pct_start=0.123, div_factor=7.0, final_div_factor=3.0)),
    ("OneCycleLR", dict(max_lr=0.3, total_steps=100, base_momentum=0.5, max_momentum=0.99)),
    ("CyclicLR", dict(base_lr=0.1, max_lr=0.3, step_size_up=7)),
    ("CyclicLR", dict(base_lr=0.1, max_lr=0.3, step_size_up=7, step_size_down=4, mode="triangular2")),
    (
        "CyclicLR",
        dict(base_lr=0.1, max_lr=0.3, step_size_up=4, step_size_down=9, mode="exp_range", gamma=0.97),
    ),
    ("CyclicLR", dict(base_lr=0.1, max_lr=0.3, step_size_up=5, base_momentum=0.6, max_momentum=0.95)),
    ("CyclicLR", dict(base_lr=0.1, max_lr=0.3, step_size_up=5, scale_fn=lambda x: 0.8**x)),
    (
        "CyclicLR",
        dict(base_lr=0.1, max_lr=0.3, step_size_up=5, scale_fn=lambda x: 0.9**x, scale_mode="iterations"),
    ),
]
