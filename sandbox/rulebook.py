"""The rules in force, and which of them a POST falls under.

The first rule that matches wins. A rule counts only the POSTs that get as far as it and fit its uid and its
minima: every=2 behind another rule is every second POST that the other one let pass.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sandbox.rules import On, Rule


@dataclass
class ActiveRule:
    """A rule in force, with its counts.

    Attributes:
        rule_id: counted from 1, never used twice while the sandbox runs.
        seen: POSTs that got as far as this rule and fit its uid and its minima.
        hits: those of them that fell under it.
    """

    rule_id: int
    rule: Rule
    seen: int = 0
    hits: int = 0

    def as_dict(self) -> dict[str, object]:
        """Give the rule and its counts as a JSON object."""
        return {"id": self.rule_id, "rule": self.rule.as_dict(), "seen": self.seen, "hits": self.hits}

    def take(self) -> bool:
        """Count a POST that fits uid and minima, and say whether it falls under the rule."""
        self.seen += 1
        taken = self.seen % (self.rule.every or 1) == 0 and (self.rule.first is None or self.hits < self.rule.first)
        self.hits += taken
        return taken


class Selection:
    """Finds the rule for one POST while its body is being read.

    A rule with uid= or min_instances= stays open until the body has shown enough, and keeps those behind it
    waiting: their turn comes only when it is ruled out.
    """

    def __init__(self, rules: Sequence[ActiveRule]) -> None:
        self._left = list(rules)
        self._winner: ActiveRule | None = None

    def advance(self, sop_instance_uids: Collection[str], instances: int, *, complete: bool) -> ActiveRule | None:
        """Go on with what is known of the body now.

        Args:
            sop_instance_uids: of the instances read so far.
            instances: the number of parts read so far.
            complete: the body is at its end, so what a rule waits for will not come.

        Returns:
            The rule that the POST falls under, as soon as it is certain; None until then, or if there is none.
        """
        while self._winner is None and self._left:
            candidate = self._left[0]
            rule = candidate.rule
            fits = (rule.uid is None or rule.uid in sop_instance_uids) and instances >= (rule.min_instances or 0)
            if not fits and not complete:
                break
            self._left.pop(0)
            if fits and candidate.take():
                self._winner = candidate
        return self._winner


class RuleBook:
    """The rules in the order in which they are asked."""

    def __init__(self) -> None:
        self._rules: list[ActiveRule] = []
        self._last_id = 0

    def add(self, rule: Rule) -> ActiveRule:
        """Put a rule behind the others."""
        self._last_id += 1
        active = ActiveRule(self._last_id, rule)
        self._rules.append(active)
        return active

    def remove(self, rule_id: int) -> bool:
        """Take a rule away; False if there is none of this number."""
        before = len(self._rules)
        self._rules = [active for active in self._rules if active.rule_id != rule_id]
        return len(self._rules) < before

    def clear(self) -> None:
        """Take all rules away: the sandbox behaves."""
        self._rules = []

    def as_list(self) -> list[dict[str, object]]:
        """Give all rules with their counts, in order."""
        return [active.as_dict() for active in self._rules]

    def select(self, transaction: On = On.STORE, length: int = 0, requests: int = 1) -> Selection:
        """Start to look for the rule of one request, among the rules of this moment.

        Args:
            transaction: what it is.
            length: its Content-Length in bytes.
            requests: how many POSTs are under way, this one among them.
        """
        return Selection(
            [
                active
                for active in self._rules
                if active.rule.transaction is transaction and active.rule.fits_head(length, requests)
            ]
        )
