"""Counts against loops that count, and against real models and caches."""

import itertools
import math

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from mambaviz.theory import (
    LedgerEntry,
    attention_flops,
    conv_state_bytes,
    crossover_length,
    direct_convolution_flops,
    fft_convolution_flops,
    fft_flops,
    fused_scan_traffic,
    kv_cache_bytes,
    ledger_total,
    linear_flops,
    lti_recurrence_flops,
    mamba_block_weights,
    mamba_parameters,
    saved_for_backward,
    saved_with_recomputation,
    scores_with_cache,
    scores_without_cache,
    selective_scan_flops,
    ssm_state_bytes,
    state_updates,
    transformer_layer_weights,
    transformer_parameters,
    unfused_scan_traffic,
)

# d_model and layers of the released Mamba models, 130m to 2.8b.
RELEASED = [(768, 24), (1024, 48), (1536, 48), (2048, 48), (2560, 64)]


class Counted:
    """A number that counts the operations on it."""

    operations = 0

    def __init__(self, value=1.0):
        self.value = value

    def _count(self, value):
        Counted.operations += 1
        return Counted(value)

    def __add__(self, other):
        return self._count(self.value + other.value)

    def __sub__(self, other):
        return self._count(self.value - other.value)

    def __mul__(self, other):
        return self._count(self.value * other.value)

    def exp(self):
        return self._count(math.exp(self.value))


@pytest.fixture
def counted():
    """Runs a function and says how many operations it took."""

    def run(function, *arguments):
        Counted.operations = 0
        function(*arguments)
        return Counted.operations

    return run


def numbers(*shape):
    """Nested lists of numbers that count."""
    if not shape:
        return Counted()
    return [numbers(*shape[1:]) for _ in range(shape[0])]


def sum_of(terms):
    """A sum with one addition less than it has terms."""
    total, *rest = terms
    for term in rest:
        total = total + term
    return total


def dot(u, v):
    return sum_of(a * b for a, b in zip(u, v, strict=True))


def dot_from_zero(u, v):
    """With as many additions as products, as a fused multiply-add does."""
    return Counted(0.0) + dot(u, v)


class TestScores:
    """S015, S016, E1."""

    @pytest.mark.parametrize("length", [0, 1, 2, 7, 30])
    def test_loops_that_generate(self, length):
        with_cache = without_cache = updates = 0
        for t in range(1, length + 1):
            updates += 1
            for row in range(1, t + 1):
                for _ in range(row):
                    without_cache += 1
                    with_cache += row == t
        assert scores_with_cache(length) == with_cache
        assert scores_without_cache(length) == without_cache
        assert state_updates(length) == updates

    def test_training_computes_the_triangle(self):
        """S006: pairs = L (L + 1) / 2."""
        mask = torch.ones(37, 37).tril()
        assert mask.count_nonzero() == scores_with_cache(37)

    def test_S015(self):
        assert scores_without_cache(1000) == 167_167_000
        assert scores_with_cache(1000) == 500_500
        assert scores_without_cache(1000) == 334 * scores_with_cache(1000)

    @pytest.mark.parametrize(
        ("count", "slope"),
        [
            (scores_without_cache, 3),
            (scores_with_cache, 2),
            (state_updates, 1),
        ],
    )
    def test_S016_slopes(self, count, slope):
        # At this length the lower powers are 3e-5 of the whole.
        ratio = count(200_000) / count(100_000)
        assert math.log2(ratio) == pytest.approx(slope, abs=1e-4)


class TestFlops:
    @pytest.mark.parametrize(("n_heads", "d_head"), [(1, 6), (2, 3), (3, 2)])
    def test_attention(self, counted, n_heads, d_head):
        """One query against t keys, head by head, softmax left out."""
        t = 5

        def attend(q, keys, values, weights):
            for head in range(n_heads):
                for key in keys[head]:
                    dot_from_zero(q, key)
                for column in values[head]:
                    dot_from_zero(weights, column)

        count = counted(
            attend,
            numbers(d_head),
            numbers(n_heads, t, d_head),
            numbers(n_heads, d_head, t),
            numbers(t),
        )
        assert count == attention_flops(t, n_heads * d_head)

    def test_linear_part(self, counted):
        """S016: 24 D^2 per token and layer, a sum that starts at 0."""
        d_out, d_in = 4, 3

        def multiply(W, x):
            for row in W:
                dot_from_zero(row, x)

        count = counted(multiply, numbers(d_out, d_in), numbers(d_in))
        assert count == linear_flops(d_out * d_in)
        assert linear_flops(transformer_layer_weights(768)) == 24 * 768**2

    def test_linear_and_attention_part_meet_at_six_widths(self):
        linear = linear_flops(transformer_layer_weights(64))
        assert attention_flops(6 * 64, 64) == linear

    @pytest.mark.parametrize(
        "sizes", [(1, 1, 1, 1), (2, 3, 4, 5), (1, 4, 2, 1)]
    )
    def test_selective_scan(self, counted, sizes):
        batch, length, d_inner, d_state = sizes

        def scan(x, delta, A, B, C):
            for b, d in itertools.product(range(batch), range(d_inner)):
                h = numbers(d_state)
                for l in range(length):
                    delta_x = delta[b][l][d] * x[b][l][d]
                    for n in range(d_state):
                        A_bar = (delta[b][l][d] * A[d][n]).exp()
                        h[n] = A_bar * h[n] + delta_x * B[b][l][n]
                    dot(C[b][l], h)

        count = counted(
            scan,
            numbers(batch, length, d_inner),
            numbers(batch, length, d_inner),
            numbers(d_inner, d_state),
            numbers(batch, length, d_state),
            numbers(batch, length, d_state),
        )
        assert count == selective_scan_flops(*sizes)

    @pytest.mark.parametrize("is_dense", [False, True])
    @pytest.mark.parametrize(("length", "d_state"), [(1, 1), (3, 4), (5, 2)])
    def test_lti_recurrence(self, counted, length, d_state, is_dense):
        """S082: the dense A costs d_state^2 per step."""

        def run(A, B, C, x):
            h = numbers(d_state)
            for x_k in x:
                if is_dense:
                    decayed = [dot(row, h) for row in A]
                else:
                    decayed = [a * v for a, v in zip(A[0], h, strict=True)]
                h = [v + b * x_k for v, b in zip(decayed, B, strict=True)]
                dot(C, h)

        count = counted(
            run,
            numbers(d_state, d_state),
            numbers(d_state),
            numbers(d_state),
            numbers(length),
        )
        assert count == lti_recurrence_flops(length, d_state, is_dense)

    @pytest.mark.parametrize("length", [1, 2, 9])
    def test_direct_convolution(self, counted, length):
        def convolve(K, x):
            for k in range(length):
                sum_of(K[j] * x[k - j] for j in range(k + 1))

        count = counted(convolve, numbers(length), numbers(length))
        assert count == direct_convolution_flops(length)

    @staticmethod
    def fft(values):
        """By halving, with complex numbers as pairs; twiddles are given."""
        if len(values) == 1:
            return values
        even, odd = TestFlops.fft(values[::2]), TestFlops.fft(values[1::2])
        low, high = [], []
        for k in range(len(even)):
            angle = -2 * math.pi * k / len(values)
            w = Counted(math.cos(angle)), Counted(math.sin(angle))
            turned = TestFlops.product(odd[k], w)
            low.append(
                tuple(a + b for a, b in zip(even[k], turned, strict=True))
            )
            high.append(
                tuple(a - b for a, b in zip(even[k], turned, strict=True))
            )
        return low + high

    @staticmethod
    def product(u, v):
        return u[0] * v[0] - u[1] * v[1], u[0] * v[1] + u[1] * v[0]

    @pytest.mark.parametrize("size", [1, 2, 8, 64])
    def test_fft(self, counted, size):
        signal = [(Counted(k % 5), Counted(k % 3)) for k in range(size)]
        assert counted(self.fft, signal) == fft_flops(size)
        ours = [complex(u.value, v.value) for u, v in self.fft(signal)]
        plain = [complex(u.value, v.value) for u, v in signal]
        true = torch.fft.fft(torch.tensor(plain, dtype=torch.complex128))
        assert ours == pytest.approx(true.tolist(), abs=1e-12 * size)

    @pytest.mark.parametrize(
        ("batch", "length", "d_inner"), [(1, 1, 1), (2, 4, 3), (3, 5, 1)]
    )
    def test_fft_convolution(self, counted, batch, length, d_inner):
        n = 1
        while n < 2 * length - 1:
            n *= 2

        def convolve():
            for _ in range(d_inner):
                K_hat = self.fft([(Counted(), Counted())] * n)
                for _ in range(batch):
                    x_hat = self.fft([(Counted(), Counted())] * n)
                    self.fft(
                        [
                            self.product(u, v)
                            for u, v in zip(K_hat, x_hat, strict=True)
                        ]
                    )

        count = counted(convolve)
        assert count == fft_convolution_flops(batch, length, d_inner)

    def test_growth(self):
        """O(L N) against O(L log L): per token, one is flat."""
        scan = [selective_scan_flops(1, 2**k, 1, 16) // 2**k for k in (8, 16)]
        assert scan[0] == scan[1] == 7 * 16
        fft = [fft_convolution_flops(1, 2**k, 1) / 2**k for k in (8, 16)]
        assert fft[1] > 1.5 * fft[0]


class TestParameters:
    @staticmethod
    def sizes(model):
        """Shape to number of elements, whatever the names."""
        return sorted(tuple(p.shape) for p in model.parameters())

    @staticmethod
    def expanded(ledger):
        return sorted(e.shape for e in ledger for _ in range(e.times))

    def test_S003(self):
        assert ledger_total(mamba_parameters(768, 24, 50277)) == 129_135_360

    @pytest.mark.parametrize(("d_model", "n_layers"), RELEASED)
    def test_released_mambas(self, d_model, n_layers):
        ledger = mamba_parameters(d_model, n_layers, 50277)
        config = MambaConfig(
            vocab_size=50280, hidden_size=d_model, num_hidden_layers=n_layers
        )
        with torch.device("meta"):
            model = MambaForCausalLM(config)
        assert self.expanded(ledger) == self.sizes(model)
        names = {name for name, _ in model.backbone.layers.named_parameters()}
        for entry in ledger[1:-1]:
            assert entry.times == n_layers
            assert f"0.{entry.name}" in names

    def test_an_odd_mamba(self):
        config = MambaConfig(
            vocab_size=21,
            hidden_size=20,
            num_hidden_layers=3,
            state_size=5,
            conv_kernel=3,
            expand=3,
            time_step_rank=7,
        )
        model = MambaForCausalLM(config)
        ledger = mamba_parameters(
            20, 3, 15, 5, 3, expand=3, dt_rank=7, vocab_multiple=7
        )
        assert self.expanded(ledger) == self.sizes(model)

    def test_gpt2(self):
        with torch.device("meta"):
            model = GPT2LMHeadModel(GPT2Config())
        ledger = transformer_parameters(768, 12, 50257, 1024)
        assert ledger_total(ledger) == 124_439_808
        # Their linear layers are stored transposed.
        ours = sorted(tuple(sorted(s)) for s in self.expanded(ledger))
        theirs = sorted(tuple(sorted(s)) for s in self.sizes(model))
        assert ours == theirs

    def test_S010_S132_main_weights(self):
        """12 D^2 a layer and 3 E D^2 a block, biases and norms aside."""
        d_model = 1000
        layer = torch.nn.TransformerEncoderLayer(
            d_model, 8, 4 * d_model, device="meta"
        )
        matrices = [p for p in layer.parameters() if p.ndim == 2]
        counted = sum(p.numel() for p in matrices)
        assert transformer_layer_weights(d_model) == counted
        for expand in (1, 2, 3):
            block = mamba_parameters(d_model, 1, 8, expand=expand)
            main = sum(
                entry.count
                for entry in block
                if entry.name
                in ("mixer.in_proj.weight", "mixer.out_proj.weight")
            )
            assert mamba_block_weights(d_model, expand) == main
        two_blocks = 2 * mamba_block_weights(d_model)
        assert two_blocks == transformer_layer_weights(d_model)


class TestMemory:
    @pytest.mark.parametrize("n_kv_heads", [8, 4, 2, 1])
    def test_real_kv_cache(self, n_kv_heads):
        config = LlamaConfig(
            vocab_size=11,
            hidden_size=32,
            intermediate_size=16,
            num_hidden_layers=3,
            num_attention_heads=8,
            num_key_value_heads=n_kv_heads,
        )
        tokens = torch.zeros(2, 5, dtype=torch.long)
        with torch.no_grad():
            cache = LlamaForCausalLM(config)(tokens, use_cache=True)
        kept = [
            t for l in cache.past_key_values.layers for t in (l.keys, l.values)
        ]
        assert kv_cache_bytes(
            5, 3, 32, 8, n_kv_heads, element_bytes=4, batch=2
        ) == sum(t.nbytes for t in kept)

    def test_real_states(self):
        config = MambaConfig(
            vocab_size=11, hidden_size=32, num_hidden_layers=3, state_size=8
        )
        tokens = torch.zeros(2, 5, dtype=torch.long)
        with torch.no_grad():
            layers = MambaForCausalLM(config)(
                tokens, use_cache=True
            ).cache_params.layers
        states = sum(
            t.nbytes for l in layers for t in l.recurrent_states.values()
        )
        convs = sum(t.nbytes for l in layers for t in l.conv_states.values())
        assert ssm_state_bytes(3, 32, 8, element_bytes=4, batch=2) == states
        assert conv_state_bytes(3, 32, element_bytes=4, batch=2) == convs

    def test_S011(self):
        """Cached numbers = 2 x layers x D x L."""
        numbers = kv_cache_bytes(100, 12, 768, element_bytes=1)
        assert numbers == 2 * 12 * 768 * 100

    @pytest.mark.parametrize(("d_model", "n_layers"), RELEASED)
    @pytest.mark.parametrize(
        ("tokens", "d_conv", "n_kv_heads", "state_bytes"),
        [(32, 0, 32, 2), (40, 4, 32, 2), (128, 0, 8, 2), (64, 0, 32, 4)],
    )
    def test_S109(
        self, d_model, n_layers, tokens, d_conv, n_kv_heads, state_bytes
    ):
        """At every size, n_layers / 2 Transformer layers are equal."""
        state = ssm_state_bytes(n_layers, d_model, element_bytes=state_bytes)
        if d_conv:
            state += conv_state_bytes(n_layers, d_model, d_conv)

        def cache(length):
            return kv_cache_bytes(
                length, n_layers // 2, d_model, 32, n_kv_heads
            )

        assert cache(tokens) == state
        assert (
            crossover_length(
                d_conv=d_conv,
                n_heads=32,
                n_kv_heads=n_kv_heads,
                state_bytes=state_bytes,
            )
            == tokens
        )

    @pytest.mark.parametrize("d_state", [1, 3, 16, 64])
    @pytest.mark.parametrize("expand", [1, 2, 3])
    @pytest.mark.parametrize("n_kv_heads", [1, 2, 6])
    @pytest.mark.parametrize(("kv_bytes", "state_bytes"), [(2, 4), (4, 2)])
    def test_crossover_is_the_first_length(
        self, d_state, expand, n_kv_heads, kv_bytes, state_bytes
    ):
        state = ssm_state_bytes(2, 12, d_state, expand, state_bytes)
        state += conv_state_bytes(2, 12, 4, expand, kv_bytes)
        length = 0
        while kv_cache_bytes(length, 1, 12, 6, n_kv_heads, kv_bytes) < state:
            length += 1
        assert length == crossover_length(
            d_state, 4, expand, 6, n_kv_heads, kv_bytes, state_bytes
        )


class TestTraffic:
    """S125."""

    SIZES = 1, 2048, 1024, 16

    def test_unfused_is_6BLDN(self):
        ledger = unfused_scan_traffic(3, 5, 7, 2)
        assert ledger_total(ledger) == 6 * 3 * 5 * 7 * 2
        reads = [e for e in ledger if "read" in e.name]
        writes = [e for e in ledger if "write" in e.name]
        assert len(reads) == len(writes) == 3
        # What one stage writes is what a later one reads.
        assert {e.name.split()[-1] for e in writes} == {
            e.name.split()[-1] for e in reads
        }

    @pytest.mark.parametrize("is_gated", [False, True])
    def test_fused_formula(self, is_gated):
        B, L, D, N = 3, 5, 7, 2
        total = ledger_total(fused_scan_traffic(B, L, D, N, is_gated))
        assert total == (3 + is_gated) * B * L * D + 2 * B * L * N + D * N

    @pytest.mark.parametrize(
        ("is_gated", "ratio"), [(False, 31.6), (True, 23.8)]
    )
    def test_ratio(self, is_gated, ratio):
        unfused = ledger_total(unfused_scan_traffic(*self.SIZES))
        fused = ledger_total(fused_scan_traffic(*self.SIZES, is_gated))
        assert round(unfused / fused, 1) == ratio

    @pytest.mark.parametrize("is_gated", [False, True])
    def test_a_kernel_that_touches_each_element_once(self, is_gated):
        """A fused scan over memories that count what is read and written."""
        B, L, D, N = 2, 3, 4, 2
        moved = []

        def kernel(b):
            A = {(d, n): 1 for d in range(D) for n in range(N)}
            if b == 0:  # kept on the chip for the rest of the batch
                moved.extend(("A", *key) for key in A)
            for l in range(L):
                moved.extend(
                    (name, b, l, n) for name in "BC" for n in range(N)
                )
                for d in range(D):
                    inputs = (
                        ("x", "delta", "z") if is_gated else ("x", "delta")
                    )
                    moved.extend((name, b, l, d) for name in inputs)
                    moved.append(("y", b, l, d))

        for b in range(B):
            kernel(b)
        assert len(set(moved)) == len(moved)
        ledger = fused_scan_traffic(B, L, D, N, is_gated)
        assert len(moved) == ledger_total(ledger)
        for entry in ledger:
            name = entry.name.split()[-1]
            assert entry.count == sum(move[0] == name for move in moved)


class TestSavedForBackward:
    """S128."""

    def test_what_autograd_keeps(self):
        B, L, D, N = 2, 5, 3, 4
        x, delta = torch.rand(2, B, L, D).unbind()
        A = -torch.rand(D, N)
        b, c = torch.rand(2, B, L, N).unbind()
        # Storages of their own, so that each is counted by itself.
        inputs = [t.clone().requires_grad_() for t in (x, delta, A, b, c)]
        x, delta, A, b, c = inputs
        kept = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes() // 4
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            A_bar = torch.exp(delta[..., None] * A)
            drive = (delta * x)[..., None] * b[:, :, None]
            h = torch.zeros(B, D, N)
            states = []
            for A_bar_l, drive_l in zip(
                A_bar.unbind(1), drive.unbind(1), strict=True
            ):
                h = A_bar_l * h + drive_l
                states.append(h)
            y = [
                (h * C_l[:, None]).sum(-1)
                for h, C_l in zip(states, c.unbind(1), strict=True)
            ]
        assert len(y) == L
        # The loop also keeps the zeros that it starts from.
        ledger = saved_for_backward(B, L, D, N)
        assert sum(kept.values()) == ledger_total(ledger) + B * D * N

    @pytest.mark.parametrize(
        ("length", "chunks"), [(1, 1), (2048, 1), (2049, 2), (8192, 4)]
    )
    def test_with_recomputation(self, length, chunks):
        plain = saved_for_backward(2, length, 64, 16)
        lean = saved_with_recomputation(2, length, 64, 16)
        # state-spaces/mamba keeps a (batch, dim, n_chunks, 2 d_state) tensor.
        ends = [e for e in lean if "ends" in e.name]
        assert sum(e.count for e in ends) == 2 * 64 * chunks * 2 * 16
        gone = {e.name for e in plain} - {e.name for e in lean}
        assert gone == {"delta x", "A_bar", "h"}

    def test_how_much_that_saves(self):
        sizes = 1, 2048, 1024, 16
        plain = ledger_total(saved_for_backward(*sizes))
        lean = ledger_total(saved_with_recomputation(*sizes))
        # 2 N + 3 against 2, and a little.
        assert 16 < plain / lean < 35 / 2


class TestLedgers:
    def test_entry(self):
        entry = LedgerEntry("three", (4, 5), 3)
        assert entry.count == 60
        assert LedgerEntry("a number", ()).count == 1

    def test_every_count_is_a_whole_number(self):
        ledgers = [
            mamba_parameters(768, 24, 50277),
            transformer_parameters(768, 12, 50257),
            unfused_scan_traffic(1, 2, 3, 4),
            fused_scan_traffic(1, 2, 3, 4),
            saved_for_backward(1, 2, 3, 4),
            saved_with_recomputation(1, 2, 3, 4),
        ]
        for ledger in ledgers:
            assert all(type(entry.count) is int for entry in ledger)
            assert type(ledger_total(ledger)) is int


@pytest.mark.usefixtures("outside_tests")
class TestRefusals:
    @pytest.mark.parametrize(
        ("call", "error", "words"),
        [
            (lambda: scores_with_cache(-1), ValueError, "length .* got -1"),
            (lambda: scores_with_cache(2.0), TypeError, "length .* got 2.0"),
            (lambda: state_updates(True), TypeError, "length .* got True"),
            (
                lambda: ssm_state_bytes(2, 768, d_state=-16),
                ValueError,
                "d_state must be at least 1; got -16",
            ),
            (
                lambda: selective_scan_flops(1, 2, 3, 2.5),
                TypeError,
                "d_state must be a whole number, an int; got 2.5",
            ),
            (lambda: fft_flops(12), ValueError, "power of two; got 12"),
            (
                lambda: kv_cache_bytes(1, 1, 10, 3),
                ValueError,
                "divide d_model; got 3 and 10",
            ),
            (
                lambda: kv_cache_bytes(1, 1, 12, 6, 4),
                ValueError,
                "divide n_heads; got 4 and 6",
            ),
            (
                lambda: unfused_scan_traffic(1, 0, 1, 1),
                ValueError,
                "length must be at least 1; got 0",
            ),
            (
                lambda: mamba_parameters(768, 24, 50277, dt_rank=0),
                ValueError,
                "dt_rank .* got 0",
            ),
        ],
    )
    def test_counts(self, call, error, words):
        with pytest.raises(error, match=words):
            call()
