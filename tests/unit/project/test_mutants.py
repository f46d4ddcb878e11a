"""The mutants that the tests are tried on: each is a change of a text that is there."""

import pytest

from support.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_changes_is_in_the_product_once(mutant: Mutant) -> None:
    """Else `make test-mutants` would end there; and what comes of it is Python."""
    text = (ROOT / mutant.file).read_text()
    assert text.count(mutant.old) == 1
    changed = text.replace(mutant.old, mutant.new)
    assert changed != text
    compile(changed, mutant.file, "exec")
