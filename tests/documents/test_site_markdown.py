"""Pages of the repository made fit for the site: links, keys, lists."""

from __future__ import annotations

from site_markdown import fitted

PAGES = {
    "docs/README.md": "README.md",
    "docs/selection.md": "selection.md",
    "docs/howto/cite.md": "howto/cite.md",
    "hpc/README.md": "hpc.md",
    "ARCHITECTURE.md": "project/architecture.md",
}
IN_THE_REPOSITORY = {*PAGES, "configs/demo.yaml", "configs"}
KEYS = {"select.kl_threshold", "store.root"}


def fit(text: str, source: str = "docs/howto/cite.md") -> str:
    return fitted(text, source, PAGES[source], PAGES, IN_THE_REPOSITORY.__contains__, KEYS)


def test_links_lead_to_the_pages_places():
    assert fit("[a](../selection.md#rules)") == "[a](../selection.md#rules)"
    assert fit("[a](../../hpc/README.md)") == "[a](../hpc.md)"
    assert fit("[a](../../ARCHITECTURE.md#floors)") == "[a](../project/architecture.md#floors)"
    assert (
        fit("[`docs/`](docs/README.md) and [b](hpc/README.md)", "ARCHITECTURE.md")
        == "[`docs/`](../README.md) and [b](../hpc.md)"
    )
    assert fit("[a](https://arxiv.org/abs/1) [b](#here)") == "[a](https://arxiv.org/abs/1) [b](#here)"


def test_a_link_to_what_is_no_page_is_its_text():
    assert fit("[the demo's](../../configs/demo.yaml)") == "the demo's"


def test_a_link_to_nothing_stays_so_that_the_build_fails():
    assert fit("[a](../nothing.md)") == "[a](../nothing.md)"


def test_keys_lead_to_the_configuration():
    there = "../reference/configuration.md"
    assert fit("`select.kl_threshold` is") == f"[`select.kl_threshold`]({there}#select-kl_threshold) is"
    assert fit("`store.root: x`") == f"[`store.root: x`]({there}#store-root)"
    assert fit("`select.nothing` [`store.root`](../selection.md)") == "`select.nothing` [`store.root`](../selection.md)"


def test_code_stays():
    code = "```yaml\n  `store.root`\n  [a](../../hpc/README.md)\n```"
    assert fit(code) == code


def test_what_stands_in_a_list_is_indented_as_the_sites_markdown_wants():
    assert fit("- a\n  b\n\n  | c |\n- d\n  ```sh\n  x\n    y\n  ```") == (
        "- a\n    b\n\n    | c |\n- d\n    ```sh\n    x\n      y\n    ```"
    )
    assert fit("1. a\n\n    b\n   c") == "1. a\n\n    b\n    c"
