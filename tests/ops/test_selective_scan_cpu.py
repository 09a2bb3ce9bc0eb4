"""What is particular to the compiled rung: its functions and its threads.

That it computes what the reference does is in test_selective_scan_backends.
"""

import functools
import multiprocessing
import os
import subprocess
import sys
import threading
import tracemalloc

import mpmath
import numpy as np
import pytest
import torch

from tests.ops.scan_cases import TENSORS, case, error, in_dtype, run, scan_by

pytest.importorskip("numba")

from mambaviz.ops.selective_scan import cpu, cpu_kernels, selective_scan
from tests.ops.test_selective_scan_chunked import Memory

DTYPES = [torch.float32, torch.float64]
scan = scan_by("cpu")


@pytest.fixture
def many_threads(monkeypatch):
    """Several threads, however small the work."""
    monkeypatch.setattr(cpu, "GRAIN", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def exactly(function, values):
    """A function of mpmath at some floats, as float64."""
    with mpmath.workdps(40):
        return torch.tensor(
            [float(function(mpmath.mpf(v))) for v in values.tolist()],
            dtype=torch.float64,
        )


class TestFunctions:
    """Each number for itself, relative to its own size."""

    # Both ends, both sides of 0, and what every softplus gets wrong: the far
    # left, where it is e^x, and 20, where PyTorch cuts it off by default.
    POINTS = torch.cat(
        [
            torch.tensor([-80.0, -50.0, -20.0, -10.0, -1e-3, 0.0, 1e-3]),
            torch.tensor([10.0, 19.9, 20.0, 20.1, 40.0, 80.0]),
            torch.linspace(-30, 30, 211),
        ]
    )

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_softplus_and_its_slope(self, dtype):
        delta = self.POINTS.to(dtype, copy=True).requires_grad_()
        ones = torch.ones(1, 1, 1, dtype=dtype)
        x = torch.ones(1, 1, len(delta), dtype=dtype)
        A = torch.zeros(len(delta), 1, dtype=dtype)
        # One step from zero, where A = 0: y is the step.
        y = scan(x, delta[None, None], A, ones, ones, delta_softplus=True)
        y.sum().backward()
        softplus = exactly(lambda v: mpmath.log1p(mpmath.exp(v)), delta)
        slope = exactly(lambda v: 1 / (1 + mpmath.exp(-v)), delta)
        # The exponent -|x| log2(e) is rounded, which shifts the exponential
        # by |x| parts; the rest is about ten roundings.
        allowed = torch.finfo(dtype).eps * (5 + delta.detach().abs().double())
        for ours, truth in ((y[0, 0], softplus), (delta.grad, slope)):
            off = (ours.detach().double() / truth - 1).abs()
            assert (off <= allowed).all()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_exponential(self, dtype):
        exponent = torch.linspace(-80, 80, 641).to(dtype)
        n = len(exponent)
        one, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, n)
        # One step without input, from 1: y is exp(delta A).
        y = scan(
            zero.to(dtype),
            one.to(dtype).expand(1, 1, n),
            exponent[:, None],
            one.to(dtype),
            one.to(dtype),
            initial_state=torch.ones(1, n, 1, dtype=dtype),
        )[0, 0]
        off = (y.double() / exactly(mpmath.exp, exponent) - 1).abs()
        allowed = torch.finfo(dtype).eps * (2 + exponent.abs().double())
        assert (off <= allowed).all()
        assert y[exponent == 0] == 1

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_exponential_where_floats_end(self, dtype):
        """Zero and infinity, not the garbage of an exponent field."""
        info = torch.finfo(dtype)
        edge = float(np.log(info.max))
        factor = torch.tensor([1.01, 2.0, 10.0, 1e6, float("inf")])
        exponent = edge * torch.cat([-factor, factor]).to(dtype)
        n = len(exponent)
        ones = torch.ones(1, 1, 1, dtype=dtype)
        y = scan(
            torch.zeros(1, 1, n, dtype=dtype),
            ones.expand(1, 1, n),
            exponent[:, None],
            ones,
            ones,
            initial_state=torch.ones(1, n, 1, dtype=dtype),
        )[0, 0]
        assert (y[:5] == 0).all()
        assert (y[5:] == torch.inf).all()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_gate_and_its_slope(self, dtype):
        z = self.POINTS.to(dtype, copy=True).requires_grad_()
        n = len(z)
        nothing = torch.zeros(1, 1, 1, dtype=dtype)
        ones = torch.ones(1, 1, n, dtype=dtype)
        y = scan(
            ones,
            ones,
            torch.zeros(n, 1, dtype=dtype),
            nothing,
            nothing,
            D=ones[0, 0],
            z=z[None, None],
        )
        y.sum().backward()
        silu = exactly(lambda v: v / (1 + mpmath.exp(-v)), z)
        close = functools.partial(
            torch.testing.assert_close, rtol=0, atol=0, check_dtype=False
        )
        eps = torch.finfo(dtype).eps
        allowed = eps * (5 + z.detach().abs().double())
        off = (y[0, 0].detach().double() - silu).abs()
        assert (off <= allowed * silu.abs()).all()

        def slope(v):
            s = 1 / (1 + mpmath.exp(-v))
            return s + v * s * (1 - s)

        # It has a zero near z = -1.28, so relative to the terms it is made of.
        scale = exactly(lambda v: abs(slope(v)) + abs(v) * mpmath.exp(v), z)
        off = (z.grad.double() - exactly(slope, z)).abs()
        assert (off <= allowed * scale.clamp(max=2)).all()
        close(z.grad[z == 0], torch.tensor([0.5]))


class TestNotANumber:
    """fastmath may delete what tests for NaN; nothing here may do so."""

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("name", TENSORS)
    def test_it_goes_where_it_goes_in_the_reference(self, name, bad):
        given = in_dtype(case(2, 70, 20, 5, reset=False), torch.float32)
        given[name] = given[name].clone()
        given[name][(1,) * given[name].ndim] = bad
        ours, theirs = run(scan, given), run(scan_by("reference"), given)
        # softplus(-inf) is a step of 0, as good as any.
        harmless = bad == -torch.inf and name in ("delta", "delta_bias")
        seen = not all(value.isfinite().all() for value in theirs.values())
        assert seen != harmless
        for what in ("y", "last_state"):
            finite = theirs[what].isfinite()
            assert torch.equal(ours[what].isfinite(), finite), what
        for what, value in theirs.items():
            # Where the reference is finite, 0 times infinity may be a NaN.
            assert not ours[what][value.isnan()].isfinite().any(), what

    def test_it_stays_in_its_channel_and_sequence(self):
        given = in_dtype(case(2, 70, 20, 5), torch.float32)
        given["x"][1, 30, 17] = torch.nan
        given["reset"] = torch.zeros(2, 70, dtype=torch.bool)
        given["reset"][1, 50] = True
        spoilt = torch.zeros(2, 70, 20, dtype=torch.bool)
        spoilt[1, 30:50, 17] = True
        assert torch.equal(run(scan, given)["y"].isnan(), spoilt)


class TestThreads:
    SIZES = ((3, 70, 70, 5), (1, 40, 600, 3))

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("kinds", ["each", 2, "fixed"])
    def test_their_number_does_not_change_a_bit(
        self, size, kinds, many_threads
    ):
        given = in_dtype(case(*size, B=kinds, C=kinds), torch.float32)
        first = run(scan, given)
        for threads in (1, 2, 3, 5, 3):
            torch.set_num_threads(threads)
            for what, value in run(scan, given).items():
                assert torch.equal(value, first[what]), (threads, what)

    def test_all_items_are_done_once(self, many_threads):
        seen = np.zeros(1000, int)
        cpu._share(lambda a, b: np.add.at(seen, slice(a, b), 1), 1000, 10**6)
        assert (seen == 1).all()

    def test_a_failure_in_a_thread_is_heard_of(self, many_threads):
        def work(first, last):
            if last == 1000:
                raise MemoryError("no desk")

        with pytest.raises(MemoryError, match="no desk"):
            cpu._share(work, 1000, 10**6)

    def test_several_callers_at_once(self, many_threads):
        given = [case(2, 40, 40, 5, seed=seed) for seed in range(4)]
        alone = [run(scan, one) for one in given]
        together = [[] for _ in given]

        def call(k):
            together[k] += [run(scan, given[k]) for _ in range(10)]

        callers = [threading.Thread(target=call, args=(k,)) for k in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        for one, several in zip(alone, together, strict=True):
            assert len(several) == 10
            for again in several:
                for what, value in one.items():
                    assert torch.equal(again[what], value), what

    @pytest.mark.skipif(
        "fork" not in multiprocessing.get_all_start_methods(),
        reason="this system cannot fork",
    )
    # Python warns that a fork of several threads may hang: ours must not.
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_in_a_fork_of_a_process_that_used_them(self, many_threads):
        given = case(2, 40, 40, 5)
        before = scan(**given)
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        child = context.Process(
            target=lambda: answers.put(scan(**given).numpy().tobytes())
        )
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert answers.get() == before.numpy().tobytes()

    def test_denormal_numbers_are_left_to_the_process(self, many_threads):
        scan(**case(2, 40, 40, 5))
        small = []

        def work(first, last):
            small.append(np.float32(1e-38) * np.float32(0.01))

        cpu._share(work, 8, 10**6)
        assert len(small) == 8
        assert min(small) > 0
        assert torch.tensor(1e-38).mul(0.01) > 0


class TestMemory:
    def test_strides_do_not_change_a_bit(self):
        given = in_dtype(case(2, 70, 40, 5, reset=False), torch.float32)
        given["x"] = torch.cat([given["x"], given["z"]], -1)
        given["x"], given["z"] = given["x"].chunk(2, -1)
        # As the official package has it: (batch, d_inner, length).
        given["delta"] = given["delta"].mT.contiguous().mT
        wide = torch.cat([given["B"], given["C"]], -1)
        given["B"], given["C"] = wide.chunk(2, -1)
        given["A"] = given["A"].T.contiguous().T
        views = {
            name: value
            for name, value in given.items()
            if isinstance(value, torch.Tensor) and not value.is_contiguous()
        }
        assert set(views) == {"x", "delta", "A", "B", "C", "z"}
        plain = {name: value.contiguous() for name, value in views.items()}
        ours, theirs = run(scan, given), run(scan, given | plain)
        for what, value in theirs.items():
            assert torch.equal(ours[what], value), what

    def test_it_is_that_of_x_whatever_the_default_device(self):
        given = in_dtype(case(2, 40, 20, 5), torch.float32)
        expected = run(scan, given)
        cpu._desks.cache_clear()
        with torch.device("meta"):
            found = run(scan, given)
        for what, value in expected.items():
            assert torch.equal(found[what], value), what

    def test_one_gradient_for_all_of_y(self):
        given = case(2, 70, 40, 5)
        grads = []
        for loss in (lambda y: y.sum(), lambda y: y @ torch.ones(40).double()):
            x = given["x"].clone().requires_grad_()
            loss(scan(**(given | {"x": x}))).sum().backward()
            grads.append(x.grad)
        assert torch.equal(*grads)

    @pytest.mark.parametrize("kinds", ["each", "fixed"])
    def test_it_never_holds_all_states(self, kinds):
        """Not in its own arrays, nor in tensors; but a 32nd of them."""
        sizes = batch, length, d_inner, d_state = 1, 2048, 256, 16
        given = in_dtype(case(*sizes, B=kinds, C=kinds), torch.float32)
        softplus, reset = given.pop("delta_softplus"), given.pop("reset")
        arguments = (*given.values(), reset, softplus)
        every_state = 4 * batch * length * d_inner * d_state
        with Memory():  # its imports take memory, and so does compiling
            run(scan, in_dtype(case(), torch.float32))
        tracemalloc.start()
        with Memory() as memory:
            y, h, checkpoints = cpu.forward(*arguments, True)
            cpu.backward(y, h, checkpoints, *arguments)
        arrays = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert checkpoints.nbytes == every_state / cpu.TILE
        assert memory.largest <= every_state / 16  # x itself
        # Three gradients of the size of x, and sums for each piece: at this
        # width two of these are x again, each.
        assert arrays <= 6 * every_state / 16

    @pytest.mark.parametrize("most", [1, 8, cpu.PIECES])
    @pytest.mark.parametrize(
        ("batch", "d_inner", "groups"),
        [(1, 1, 1), (1, 128, 1), (1, 1536, 1), (4, 8192, 1), (64, 512, 8)],
    )
    def test_every_channel_is_in_one_block_and_piece(
        self, batch, d_inner, groups, most
    ):
        blocks = cpu._blocks(d_inner, groups, 0)
        pieces = cpu._pieces(batch, d_inner, groups, 0, most)
        seen = [
            channel
            for first, last in pieces
            for start, count, group, _ in blocks[first:last]
            for channel in range(start, start + count)
            if channel * groups // d_inner == group
        ]
        assert seen == list(range(d_inner))
        # The sums of all pieces, of B and of C, over one (batch, length,
        # d_inner): at most 2 d_state / LANES of it.
        in_group = {tuple(set(blocks[a:b, 2])) for a, b in pieces}
        assert len(in_group) == groups
        assert len(pieces) * cpu.LANES <= max(d_inner, groups * cpu.LANES)


class TestCompiling:
    def test_one_variant_for_each_precision(self):
        """Whatever is left out, grouped, fixed, strided or in half."""
        for kinds in ({}, {"B": 2, "C": "fixed"}, {"without": TENSORS[5:]}):
            for dtype in (torch.float64, torch.float32, torch.bfloat16):
                run(scan, in_dtype(case(**kinds), dtype))
        for kernel in (cpu_kernels.scan_blocks, cpu_kernels.walk_blocks):
            assert len(kernel.signatures) == 2

    def test_the_next_process_need_not(self, tmp_path):
        program = """
import torch
from mambaviz.ops.selective_scan import cpu_kernels, selective_scan
x, A, B = torch.randn(1, 9, 4), -torch.rand(4, 2), torch.randn(1, 9, 2)
selective_scan(x, x.exp(), A, B, B, backend="cpu")
stats = cpu_kernels.scan_blocks.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
        hits_and_misses = [
            subprocess.run(
                [sys.executable, "-c", program],
                env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()
            for _ in range(2)
        ]
        assert hits_and_misses == [["0", "1"], ["1", "0"]]

    def test_without_a_place_to_keep_it(self, monkeypatch):
        """Numba refuses to cache then; compiled it must be all the same."""
        njit = cpu_kernels.njit

        def refuse(cache=False, **options):
            if cache:
                raise RuntimeError("no locator available")
            return njit(**options)

        monkeypatch.setattr(cpu_kernels, "njit", refuse)
        assert cpu_kernels.compiled(lambda a: a + 1)(1) == 2

    def test_the_interpreter_is_free_meanwhile(self):
        for kernel in (cpu_kernels.scan_blocks, cpu_kernels.walk_blocks):
            assert kernel.targetoptions["nogil"]


def test_it_is_what_mambapy_computes():
    """Values and gradients, by a scan that is not ours."""
    pscan = pytest.importorskip("mambapy.pscan").pscan
    without = ("delta_bias", "initial_state")
    given = case(2, 37, 20, 16, without=without, softplus=False, reset=False)

    def theirs(x, delta, A, B, C, D, z, return_last_state, **others):
        A_bar = torch.exp(delta[..., None] * A)
        h = pscan(A_bar, delta[..., None] * B[:, :, None] * x[..., None])
        y = (h @ C[..., None]).squeeze(3) + D * x
        return y * torch.nn.functional.silu(z), h[:, -1]

    ours = run(scan, given)
    for what, value in run(theirs, given).items():
        assert error(ours[what], value) < 1e-13, what


def test_refusals_say_who_can():
    given = case(is_complex=True)
    with pytest.raises(ValueError, match="real numbers.*can: reference"):
        selective_scan(**given, backend="cpu")
