"""WikiText-2 (raw): predict the next token of Wikipedia text. Metric: perplexity (Eq. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qslm_opt.data.rows import HubData, check_texts, read_rows
from qslm_opt.data.taskdata import TaskData, build, cut_windows, encode

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HUB = HubData("Salesforce/wikitext", "wikitext-2-raw-v1")
WINDOW = 1024


def load_wikitext2(
    tokenizer: Tokenizer,
    data_dir: str | None,
    split: str | None,
    window: int | None,
    limit: int | None,
) -> TaskData:
    """Return the split's rows joined by blank lines, encoded once, in non-overlapping windows."""
    split, window = split or "test", window or WINDOW
    rows = read_rows("wikitext2", HUB, data_dir, split, ("text",))
    text = "\n\n".join(check_texts("wikitext2", "text", rows.columns["text"]))
    windows = cut_windows(encode(tokenizer, [text])[0], window, "wikitext2")
    return build("wikitext2", split, windows[:limit], source=rows.source, window=window)
