"""The masked loop: each sample as if it were alone, NaN kept in its sample, early exit, transforms, derivatives."""

import torch

from optlayers._base.loop import can_read, iterate, surely_none


def halve(state):
    return {"x": state["x"] / 2, "count": state["count"] + 1}


def small(state):
    return state["x"].abs().amax(-1) < 1.0


def start(*values):
    x = torch.tensor(values, dtype=torch.float64)[:, None] * torch.tensor([1.0, -0.5], dtype=torch.float64)
    return {"x": x, "count": torch.zeros(len(values), dtype=torch.int64)}


def test_each_sample_stops_on_its_own_and_stays_bit_for_bit():
    values = (0.3, 7.0, 1000.0, 3.0)
    together = iterate(halve, start(*values), small, 20)
    assert together.done.all() and not together.failed.any()
    assert together.steps.tolist() == [0, 3, 10, 2]
    assert torch.equal(together.state["count"], together.steps)
    for i, value in enumerate(values):
        alone = iterate(halve, start(value), small, 20)
        assert torch.equal(alone.state["x"][0], together.state["x"][i])


def test_max_steps_is_not_done():
    end = iterate(halve, start(7.0, 1e9), small, 5)
    assert end.done.tolist() == [True, False] and not end.failed.any()
    assert end.steps.tolist() == [3, 5]


def test_a_sample_without_finite_step_fails_alone_with_its_last_finite_state():
    def step(state):
        x = state["x"] / 2
        return {"x": torch.where(x.abs().amax(-1, keepdim=True) > 100, torch.nan, x), "count": state["count"] + 1}

    # The second sample fails at its first step, the third is NaN from the start, the fourth overflows nowhere.
    end = iterate(step, start(7.0, 1000.0, float("nan"), 3.0), small, 20)
    assert end.failed.tolist() == [False, True, True, False]
    assert end.done.tolist() == [True, False, False, True]
    assert end.steps.tolist() == [3, 0, 0, 2]
    assert end.state["x"][1, 0] == 1000.0


def test_stops_as_soon_as_all_are_done_if_that_can_be_read():
    calls = []

    def step(state):
        calls.append(None)
        return halve(state)

    iterate(step, start(7.0, 3.0), small, 50)
    assert len(calls) == 3
    calls.clear()
    iterate(step, start(), small, 50)
    assert not calls  # a batch of 0


def test_vmap_and_compile_give_the_same():
    values = start(0.3, 7.0, 1e9, float("nan"))

    def run(state):
        return iterate(halve, state, small, 8)

    eager = run(values)
    for other in (torch.vmap(run)(values), torch.compile(run, fullgraph=True, backend="eager")(values)):
        torch.testing.assert_close(other.state, eager.state, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(other.done, eager.done) and torch.equal(other.failed, eager.failed)
        assert torch.equal(other.steps, eager.steps)


def test_history_has_the_start_and_every_step():
    end = iterate(halve, start(7.0, 3.0), small, 20, record=lambda state: state["x"][:, 0])
    assert end.history.tolist() == [[7, 3], [3.5, 1.5], [1.75, 0.75], [0.875, 0.75]]
    assert iterate(halve, start(7.0), small, 20).history == ()


def test_derivatives_pass_through_and_in_forward_mode_failed_samples_do_not_spoil_them():
    def end_of(rate):
        def step(state):
            blows_up = torch.tensor([1.0, float("inf"), 1.0], dtype=torch.float64)[:, None]
            return {"x": state["x"] * rate * blows_up, "count": state["count"] + 1}

        return iterate(step, start(7.0, 1000.0, 3.0), small, 20).state["x"][[0, 2], 0]

    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: iterate(lambda s: s * r, r + 6.0, lambda s: s < 1, 9).state, rate)
    # 7 r^3 and 3 r^2
    expected = torch.tensor([7 * 3 * 0.25, 3 * 2 * 0.5], dtype=torch.float64)
    torch.testing.assert_close(torch.func.jacfwd(end_of)(rate.detach()), expected)


def test_what_can_be_read():
    mask = torch.tensor([False, True])
    assert can_read(mask) and not surely_none(mask) and surely_none(mask[:1]) and surely_none(mask[:0])
    seen = []
    torch.vmap(lambda m: (seen.append((can_read(m), surely_none(m))), m)[1])(torch.tensor([False, False]))
    assert seen == [(False, False)]
    assert not can_read(torch.ones(2, device="meta"))

    def reads(m):
        return torch.tensor([can_read(m), surely_none(m)])

    assert not torch.compile(reads, fullgraph=True, backend="eager")(mask[:1]).any()
