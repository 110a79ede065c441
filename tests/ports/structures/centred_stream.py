"""GPT-2 with norms folded, value biases folded, and a residual stream and logits without their mean."""

from types import SimpleNamespace

import torch
from torch import nn

MODEL_TYPES = ("gpt2",)


class Config(SimpleNamespace):
    @classmethod
    def from_hf(cls, hf):
        return cls(**hf)


class LayerNormPre(nn.Module):
    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, x):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        H, C, D = c.n_head, c.n_embd, c.n_embd // c.n_head
        for n in "QKV":
            setattr(self, f"W_{n}", nn.Parameter(torch.zeros(H, C, D)))
            setattr(self, f"b_{n}", nn.Parameter(torch.zeros(H, D)))
        self.W_O, self.b_O = nn.Parameter(torch.zeros(H, D, C)), nn.Parameter(torch.zeros(C))

    def forward(self, x):
        q, k, v = (torch.einsum("btc,hcd->bthd", x, getattr(self, f"W_{n}")) + getattr(self, f"b_{n}") for n in "QKV")
        s = torch.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
        t = x.shape[1]
        p = s.masked_fill(~torch.tril(torch.ones(t, t)).bool(), -1e5).softmax(-1)
        return torch.einsum("bthd,hdc->btc", torch.einsum("bhts,bshd->bthd", p, v), self.W_O) + self.b_O


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        C = c.n_embd
        self.W_in, self.b_in = nn.Parameter(torch.zeros(C, 4 * C)), nn.Parameter(torch.zeros(4 * C))
        self.W_out, self.b_out = nn.Parameter(torch.zeros(4 * C, C)), nn.Parameter(torch.zeros(C))

    def forward(self, x):
        return nn.functional.gelu(x @ self.W_in + self.b_in, approximate="tanh") @ self.W_out + self.b_out


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.ln1, self.ln2 = LayerNormPre(c.layer_norm_epsilon), LayerNormPre(c.layer_norm_epsilon)
        self.attn, self.mlp = Attention(c), MLP(c)

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.W_E, self.W_pos = (
            nn.Parameter(torch.zeros(c.vocab_size, c.n_embd)),
            nn.Parameter(torch.zeros(c.n_positions, c.n_embd)),
        )
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        self.ln_final = LayerNormPre(c.layer_norm_epsilon)
        self.W_U, self.b_U = nn.Parameter(torch.zeros(c.n_embd, c.vocab_size)), nn.Parameter(torch.zeros(c.vocab_size))

    def forward(self, ids):
        x = self.W_E[ids] + self.W_pos[: ids.shape[1]]
        for b in self.blocks:
            x = b(x)
        return self.ln_final(x) @ self.W_U + self.b_U


def load_weights(m, t):
    c = m.c
    H, C, D = c.n_head, c.n_embd, c.n_embd // c.n_head
    t = {k.removeprefix("transformer."): v for k, v in t.items()}
    centre = lambda w: w - w.mean(-1, keepdim=True)
    sd = {"W_E": centre(t["wte.weight"]), "W_pos": centre(t["wpe.weight"])}
    u = t["wte.weight"].T
    bu = t["ln_f.bias"] @ u
    u = u * t["ln_f.weight"][:, None]
    u = u - u.mean(0, keepdim=True)
    sd["W_U"], sd["b_U"] = centre(u), bu - bu.mean()
    for i in range(c.n_layer):
        s, o = f"h.{i}.", f"blocks.{i}."
        w, b = t[s + "attn.c_attn.weight"], t[s + "attn.c_attn.bias"]
        b = b + t[s + "ln_1.bias"] @ w
        w = w * t[s + "ln_1.weight"][:, None]
        w = w - w.mean(0, keepdim=True)
        wo = t[s + "attn.c_proj.weight"]
        bo = t[s + "attn.c_proj.bias"] + b[2 * C :] @ wo
        for j, n in enumerate("QKV"):
            sd[o + f"attn.W_{n}"] = w[:, j * C : (j + 1) * C].reshape(C, H, D).transpose(0, 1)
            sd[o + f"attn.b_{n}"] = b[j * C : (j + 1) * C].reshape(H, D) * (n != "V")
        sd[o + "attn.W_O"], sd[o + "attn.b_O"] = centre(wo).reshape(H, D, C), centre(bo)
        wi, bi = t[s + "mlp.c_fc.weight"], t[s + "mlp.c_fc.bias"]
        sd[o + "mlp.b_in"] = bi + t[s + "ln_2.bias"] @ wi
        wi = wi * t[s + "ln_2.weight"][:, None]
        sd[o + "mlp.W_in"] = wi - wi.mean(0, keepdim=True)
        sd[o + "mlp.W_out"], sd[o + "mlp.b_out"] = centre(t[s + "mlp.c_proj.weight"]), centre(t[s + "mlp.c_proj.bias"])
    m.load_state_dict(sd)
