"""Every grouping of the recurrence against a loop over plain numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from torch.autograd import gradcheck

from mambaviz.theory import (
    blelloch_scan,
    blelloch_schedule,
    chunked_scan,
    chunked_schedule,
    combine,
    combine_matrices,
    cumsum_scan,
    hillis_steele_scan,
    hillis_steele_schedule,
    run_schedule,
    scan_depth,
    scan_work,
    sequential_scan,
    sequential_schedule,
)

SCANS = {
    "sequential": sequential_scan,
    "hillis_steele": hillis_steele_scan,
    "blelloch": blelloch_scan,
    "chunked_1": lambda *a, **k: chunked_scan(*a, chunk=1, **k),
    "chunked_3": lambda *a, **k: chunked_scan(*a, chunk=3, **k),
    "chunked_8": lambda *a, **k: chunked_scan(*a, chunk=8, **k),
}
SCHEDULES = {
    "sequential": sequential_schedule,
    "hillis_steele": hillis_steele_schedule,
    "blelloch": blelloch_schedule,
    "chunked_1": lambda length: chunked_schedule(length, 1),
    "chunked_3": lambda length: chunked_schedule(length, 3),
    "chunked_8": lambda length: chunked_schedule(length, 8),
}
LENGTHS = [*range(1, 34), 63, 64, 65, 100, 128]

every_scan = pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
seeds = st.integers(0, 2**32 - 1)
examples = settings(max_examples=40, deadline=None)


def random_pairs(seed, *shape, dtype=torch.float64):
    """Coefficients of size below 1, as those of a system that forgets."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (
        torch.randn(*shape, dtype=dtype, generator=generator) for _ in "ab"
    )
    return a / (1 + a.abs()), b


def loop(a, b, h=0.0):
    """P and h over the first axis, by Python's own numbers."""
    P, products, states = 1.0, [], []
    for a_t, b_t in zip(a.tolist(), b.tolist(), strict=True):
        P, h = a_t * P, a_t * h + b_t
        products.append(P)
        states.append(h)
    return products, states


class TestValues:
    # Each state is a sum of at most `length` terms of size up to about 3, so
    # 128 steps lose fewer than 128 x 2^-52 = 3e-14 of it.
    TOLERANCE = 3e-13

    @examples
    @given(seed=seeds, length=st.integers(1, 130), is_complex=st.booleans())
    @every_scan
    def test_is_the_loop(self, scan, seed, length, is_complex):
        dtype = torch.complex128 if is_complex else torch.float64
        a, b = random_pairs(seed, length, dtype=dtype)
        for ours, loops in zip(scan(a, b), loop(a, b), strict=True):
            assert ours.dtype == dtype
            true = torch.tensor(loops, dtype=dtype)
            assert (ours - true).abs().max() <= self.TOLERANCE

    @every_scan
    def test_is_scipys_filter_where_a_is_constant(self, scan):
        _, x = random_pairs(3, 200)
        _, h = scan(torch.full_like(x, 0.9), x)
        true = lfilter([1.0], [1.0, -0.9], x.numpy())
        assert np.abs(h.numpy() - true).max() <= self.TOLERANCE

    @every_scan
    @pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
    def test_any_axis_of_any_shape(self, scan, dim):
        a, b = random_pairs(4, 5, 6, 7)
        P, h = scan(a, b, dim=dim)
        assert P.shape == h.shape == (5, 6, 7)
        first = [t.movedim(dim, 0).flatten(1) for t in (a, b, P, h)]
        for i in range(first[0].shape[1]):
            a_i, b_i, P_i, h_i = (t[:, i] for t in first)
            products, states = loop(a_i, b_i)
            assert P_i.tolist() == pytest.approx(products, abs=1e-14)
            assert h_i.tolist() == pytest.approx(states, abs=1e-13)

    @every_scan
    def test_from_an_initial_state(self, scan):
        a, b = random_pairs(5, 20)
        P, h = scan(a, b)
        _, true = loop(a, b, 3.0)
        assert (h + 3 * P).tolist() == pytest.approx(true, abs=1e-13)

    @every_scan
    @pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
    def test_matrices(self, scan, dtype):
        length, n = 21, 3
        a, b = random_pairs(6, length, n, n, dtype=dtype)
        P, h = scan(a / 2, b[..., 0], operator=combine_matrices)
        product, state = np.eye(n), np.zeros(n)
        for t in range(length):
            step = a[t].numpy() / 2
            product = step @ product
            state = step @ state + b[t, :, 0].numpy()
            assert np.abs(P[t].numpy() - product).max() <= 1e-13
            assert np.abs(h[t].numpy() - state).max() <= 1e-13

    @every_scan
    def test_real_decay_of_a_complex_state(self, scan):
        a, _ = random_pairs(7, 9)
        _, b = random_pairs(8, 9, dtype=torch.complex128)
        P, h = scan(a, b)
        assert P.dtype == torch.float64
        assert h.dtype == torch.complex128
        assert h.tolist() == pytest.approx(loop(a, b)[1], abs=1e-13)

    @every_scan
    def test_forgetting_everything(self, scan):
        """a = 0 is a reset: what came before cannot be seen."""
        a, b = random_pairs(9, 12)
        a[7] = 0
        _, before = scan(a, b)
        b[:7] += 100
        _, after = scan(a, b)
        assert torch.equal(before[7:], after[7:])

    def test_selective_coefficients(self):
        """S123: delta, B and x vary in time; all scans agree."""
        generator = torch.Generator().manual_seed(0)
        length, d_inner, d_state = 300, 3, 4
        shape = length, d_inner, 1
        delta = 10 ** (2 * torch.rand(shape, generator=generator).double() - 3)
        A = -torch.arange(1, d_state + 1).double()
        B = torch.randn(length, 1, d_state, generator=generator).double()
        x = torch.randn(shape, generator=generator).double()
        a, b = torch.exp(delta * A), delta * B * x
        _, true = sequential_scan(a, b)
        for name, scan in SCANS.items():
            _, h = scan(a, b)
            assert (h - true).abs().max() <= 1e-14 * length, name


class TestGradients:
    @every_scan
    @pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
    @pytest.mark.parametrize("length", [1, 6, 11])
    def test_gradcheck(self, scan, dtype, length):
        a, b = random_pairs(1, length, 2, dtype=dtype)
        a[length // 2] = 0  # a division by a would show here
        assert gradcheck(scan, (a.requires_grad_(), b.requires_grad_()))

    @every_scan
    def test_is_the_recurrence_backwards(self, scan):
        """dL/db_t = g_t with g_t = dL/dh_t + a_{t+1} g_{t+1}."""
        a, b = random_pairs(2, 30)
        _, weights = random_pairs(3, 30)
        _, h = scan(a.requires_grad_(), b.requires_grad_())
        (h * weights).sum().backward()
        shifted = [*a.tolist()[1:], 0.0]
        g, states = 0.0, [0.0, *h.tolist()[:-1]]
        for t in reversed(range(30)):
            g = weights[t].item() + shifted[t] * g
            assert b.grad[t].item() == pytest.approx(g, abs=1e-13)
            # dL/da_t = g_t h_{t-1}
            assert a.grad[t].item() == pytest.approx(g * states[t], abs=1e-13)


class TestTheOperator:
    """S122, E13: grouping is free, order is not."""

    # Whole numbers below 2^53 in float64: equality is exact.
    pairs = st.tuples(st.integers(-99, 99), st.integers(-99, 99))

    @staticmethod
    def tensors(*pairs):
        return [
            tuple(torch.tensor(v, dtype=torch.float64) for v in pair)
            for pair in pairs
        ]

    @given(pairs, pairs, pairs)
    def test_is_associative(self, p, q, r):
        p, q, r = self.tensors(p, q, r)
        assert combine(combine(p, q), r) == combine(p, combine(q, r))

    @given(pairs, pairs)
    def test_commutes_only_where_both_steps_rest_at_one_state(self, p, q):
        """h = a h + b rests at b / (1 - a): (1 - a_2) b_1 = (1 - a_1) b_2."""
        (a_1, b_1), (a_2, b_2) = p, q
        p, q = self.tensors(p, q)
        commutes = combine(p, q) == combine(q, p)
        assert commutes == ((1 - a_2) * b_1 == (1 - a_1) * b_2)

    def test_does_not_commute(self):
        p, q = self.tensors((2, 1), (3, 5))
        assert combine(p, q) == self.tensors((6, 8))[0]
        assert combine(q, p) == self.tensors((6, 11))[0]

    @given(pairs, pairs, st.integers(-99, 99))
    def test_is_one_step_after_the_other(self, p, q, h):
        (a_1, b_1), (a_2, b_2) = p, q
        a, b = combine(*self.tensors(p, q))
        assert a * h + b == a_2 * (a_1 * h + b_1) + b_2

    @examples
    @given(seed=seeds)
    def test_matrices(self, seed):
        rng = np.random.default_rng(seed)

        def pair():
            a = rng.integers(-9, 10, (3, 3)).astype(float)
            b = rng.integers(-9, 10, 3).astype(float)
            return torch.from_numpy(a), torch.from_numpy(b)

        p, q, r = pair(), pair(), pair()
        left = combine_matrices(combine_matrices(p, q), r)
        right = combine_matrices(p, combine_matrices(q, r))
        assert all(map(torch.equal, left, right))
        there, back = combine_matrices(p, q), combine_matrices(q, p)
        same = torch.equal(p[0] @ q[0], q[0] @ p[0])
        assert torch.equal(there[0], back[0]) == same


class TestCounts:
    """Work and depth of a schedule are those of the scan that ran."""

    @pytest.mark.parametrize("name", SCANS)
    def test_real_calls(self, name):
        for length in LENGTHS:
            calls, levels = 0, 0

            def spy(earlier, later):
                nonlocal calls, levels
                depths = torch.maximum(earlier[1], later[1]) + 1
                calls, levels = calls + len(depths), levels + 1
                return earlier[0], depths

            positions = torch.arange(length).double()
            _, depths = SCANS[name](positions, 0 * positions, operator=spy)
            schedule = SCHEDULES[name](length)
            assert calls == scan_work(schedule)
            assert depths.max() == scan_depth(schedule)
            assert levels == len(schedule)

    @every_scan
    def test_only_neighbours_are_combined(self, scan):
        """Each block ends right before the one that it is combined with."""

        def joined(earlier, later):
            (start_1, end_1), (start_2, end_2) = earlier, later
            assert torch.equal(end_1 + 1, start_2)
            return start_1, end_2

        for length in LENGTHS:
            positions = torch.arange(length).double()
            starts, ends = scan(positions, positions, operator=joined)
            assert not starts.any()
            assert torch.equal(ends, positions)

    @pytest.mark.parametrize("name", SCHEDULES)
    def test_a_level_writes_each_position_once(self, name):
        for length in LENGTHS:
            for level in SCHEDULES[name](length):
                rights = {right for _, right in level}
                assert len(rights) == len(level) > 0
                assert all(0 <= l < r < length for l, r in level)

    @pytest.mark.parametrize("length", LENGTHS)
    def test_closed_forms(self, length):
        k = math.ceil(math.log2(length))
        loops = sequential_schedule(length)
        assert scan_work(loops) == scan_depth(loops) == length - 1
        flat = hillis_steele_schedule(length)
        assert scan_work(flat) == k * length - (2**k - 1)
        assert scan_depth(flat) == len(flat) == k
        tree = blelloch_schedule(length)
        assert scan_work(tree) <= 2 * (length - 1)
        assert scan_depth(tree) <= len(tree) <= max(2 * k - 1, 0)

    @pytest.mark.parametrize("k", range(2, 11))
    def test_tree_of_a_power_of_two(self, k):
        length = 2**k
        tree = blelloch_schedule(length)
        assert scan_work(tree) == 2 * length - k - 2
        assert scan_depth(tree) == 2 * k - 2
        assert len(tree) == 2 * k - 1

    @pytest.mark.parametrize("chunk", [2, 3, 8])
    @pytest.mark.parametrize("n", [2, 3, 8, 20])
    def test_full_chunks(self, n, chunk):
        schedule = chunked_schedule(n * chunk, chunk)
        assert scan_work(schedule) == 2 * n * chunk - chunk - n
        assert scan_depth(schedule) == chunk + n - 2

    def test_extreme_chunks_are_the_loop(self):
        assert chunked_schedule(9, 1) == sequential_schedule(9)
        assert chunked_schedule(9, 9) == sequential_schedule(9)
        assert chunked_schedule(9, 99) == sequential_schedule(9)

    def test_least_deep_near_the_square_root(self):
        depths = {
            chunk: scan_depth(chunked_schedule(256, chunk))
            for chunk in (2, 4, 8, 16, 32, 64, 128)
        }
        assert min(depths, key=depths.get) == 16


class TestCumsum:
    """E24: right on paper."""

    def test_is_right_while_it_lasts(self):
        a, b = random_pairs(1, 12)
        P, h = cumsum_scan(a, b)
        products, states = loop(a, b)
        assert P.tolist() == pytest.approx(products, rel=1e-12)
        # Already here it loses digits: 1 / P is large.
        assert h.tolist() == pytest.approx(states, abs=1e-6)

    @pytest.mark.parametrize(("decay", "lasts"), [(0.75, 303), (0.5, 126)])
    def test_overflows(self, decay, lasts):
        a, b = torch.full((2000,), decay), torch.ones(2000)
        _, h = cumsum_scan(a, b)
        finite = h.isfinite()
        assert finite[:lasts].all()
        assert not finite[lasts:].any()
        assert h[lasts] == math.inf
        assert h[-1].isnan()

    @pytest.mark.parametrize("seed", range(20))
    def test_overflows_where_every_scan_is_right(self, seed):
        """2000 steps in float32, delta |A| uniform from 0.1 to 0.5."""
        generator = torch.Generator().manual_seed(seed)
        a = torch.exp(-0.1 - 0.4 * torch.rand(2000, generator=generator))
        b = torch.randn(2000, generator=generator)
        _, h = cumsum_scan(a, b)
        # ln(3e38) / 0.3 is 296 steps, and log a varies.
        first = h.isfinite().logical_not().nonzero()[0].item()
        assert 250 < first < 350
        _, states = loop(a.double(), b.double())
        true = torch.tensor(states)
        for scan in (hillis_steele_scan, blelloch_scan):
            _, h = scan(a, b)
            # An error dies out with the state: at most 1 / (1 - e^-0.1), so
            # 11, of one rounding of the largest state, at any length.
            eps = torch.finfo(torch.float32).eps
            assert (h - true).abs().max() <= 11 * eps * true.abs().max()


class TestRefusals:
    @every_scan
    @pytest.mark.parametrize(
        ("a", "b", "words"),
        [
            (torch.ones(0), torch.ones(0), r"at least one step; .*\(0,\)"),
            (
                torch.ones(3),
                torch.ones(4),
                r"same shape; .*\(3,\) and \(4",
            ),
            (torch.ones(3, 1), torch.ones(3, 2), "the same shape"),
            (torch.ones([]), torch.ones([]), r"an axis of time; .*\(\)"),
        ],
    )
    def test_shapes(self, scan, a, b, words):
        with pytest.raises(ValueError, match=words):
            scan(a, b)

    def test_axis(self):
        with pytest.raises(ValueError, match="from -1 to 0; got 1"):
            blelloch_scan(torch.ones(3), torch.ones(3), dim=1)

    def test_steps_of_matrices(self):
        a, b = torch.ones(3, 2, 2), torch.ones(4, 2)
        with pytest.raises(ValueError, match="as many steps"):
            run_schedule(
                sequential_schedule(3), a, b, operator=combine_matrices
            )

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda: sequential_schedule(0), "length .* got 0"),
            (lambda: blelloch_schedule(-1), "length .* got -1"),
            (lambda: hillis_steele_schedule(0), "length .* got 0"),
            (lambda: chunked_schedule(4, 0), "chunk .* got 0"),
            (lambda: chunked_schedule(4, -2), "chunk .* got -2"),
        ],
    )
    def test_schedules(self, call, words):
        with pytest.raises(ValueError, match=words):
            call()
