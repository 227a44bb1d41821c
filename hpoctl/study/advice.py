"""What Optuna's sampler and pruner see of a study in a database, and what they say to that.

They work on a `Mirror`. It is brought up to date with the rows that are new, in the round trip
that writes something anyway; their notes go to the database for those of other workers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import optuna

from hpoctl.samplers import Learning
from hpoctl.space import Params
from hpoctl.study import translate
from hpoctl.study.connect import Rows
from hpoctl.study.database import PATIENCE_S, Database, Statement
from hpoctl.study.mirror import Mirror
from hpoctl.study.protocol import CONSTRAINT_KEY, Claim, Outcome
from hpoctl.study.rows import NEW_PARAMS, News, Parts
from hpoctl.study.statements import Statements
from hpoctl.sweep import Sweep


class Advice:
    """The sampler and the pruner of one study, and what they know of its trials."""

    def __init__(self, database: Database, sql: Statements, sweep: Sweep) -> None:
        self._database = database
        self._sql = sql
        self._sweep = sweep
        self._mirror = Mirror(sweep.study, [metric.goal for metric in sweep.objectives])
        self._pruner = translate.pruner(sweep)
        self._study = optuna.load_study(
            study_name=sweep.study, storage=self._mirror, pruner=self._pruner
        )
        self._parts = translate.read_parts(sweep)
        self._marks: dict[News, int] = {}
        self._claimed: set[int] = set()

    @property
    def claimed(self) -> Collection[int]:
        """The ids of the trials that were taken here and have not ended."""
        return self._claimed

    def take(self, trial_id: int, rows: Rows) -> optuna.trial.FrozenTrial:
        """The trial that was claimed, made of its rows."""
        self._mirror.put(rows, own=True)
        self._claimed.add(trial_id)
        return self._mirror.get_trial(trial_id)

    def sample(self, claim: Claim) -> Params:
        """The parameters as Optuna's sampler wants them, kept in the database."""
        if isinstance(self._sweep.sampler, Learning):
            self._catch_up(NEW_PARAMS)
        params = translate.sample(self._study, claim.trial_id, self._sweep)
        new, self._mirror.new_params = self._mirror.new_params, []
        notes, self._mirror.new_attrs = self._mirror.new_attrs, {}
        keep = [self._sql.keep_params(claim.trial_id, new)] if new else []
        if translate.keeps_notes(self._sweep):
            keep += [self._sql.system_attr(claim, key, value) for key, value in notes.items()]
        if keep:
            self._database.run(*keep)
        return params

    def report(self, claim: Claim, value: float, step: int, *, patience_s: float) -> bool:
        """Keeps a value at a step; whether the trial shall end, also as it is another's now."""
        keep = [self._sql.report(claim, value, step)]
        if max(self.reports(claim), default=step) > step:
            keep.append(self._sql.forget_steps(claim, step))  # of an attempt that was lost
        asks = not isinstance(self._pruner, optuna.pruners.NopPruner)
        news = translate.pruner_news(self._sweep.pruner)
        if asks and news is not None:
            held = self._catch_up(news, *keep, claim=claim, patience_s=patience_s)
        else:
            keep.append(self._sql.is_held(claim))
            held = bool(self._database.run(*keep, patience_s=patience_s))
        self._mirror.forget_steps(claim.trial_id, step)
        self._mirror.set_trial_intermediate_value(claim.trial_id, step, value)
        if not asks:
            return not held
        prune = bool(self._pruner.prune(self._study, self._mirror.get_trial(claim.trial_id)))
        new, self._mirror.new_attrs = self._mirror.new_attrs, {}
        if new and held:  # other workers compare with them now, not at the next report
            notes = [self._sql.system_attr(claim, k, v) for k, v in new.items()]
            self._database.run(*notes, patience_s=patience_s)
        return prune or not held

    def reports(self, claim: Claim) -> Mapping[int, float]:
        """What a trial reported; read anew where another worker has run it."""
        if claim.trial_id not in self._claimed:
            self._mirror.put(self._database.run(self._sql.trial(claim.trial_id)), own=True)
        return self._mirror.get_trial(claim.trial_id).intermediate_values

    def let_go(
        self,
        claim: Claim,
        outcome: Outcome | None,
        values: Sequence[float],
        constraints: Mapping[str, float],
    ) -> None:
        """Keeps a trial of ours in the mirror as it ended; where we do not know how, forgets it."""
        self._claimed.discard(claim.trial_id)
        if outcome and self._parts is not None and self._mirror.has(claim.trial_id):
            notes = {f"{CONSTRAINT_KEY}{name}": above for name, above in constraints.items()}
            self._mirror.end(claim.trial_id, translate.ENDS[outcome], values, notes)
        else:
            self._mirror.drop(claim.trial_id)

    def _catch_up(
        self,
        news: News,
        *before: Statement,
        claim: Claim | None = None,
        patience_s: float = PATIENCE_S,
    ) -> bool:
        """Reads what changed, in one round trip with the statements that stand before.

        Gives whether the claim still holds its trial.
        """
        own_open = self._mirror.open if news is NEW_PARAMS else ()
        question = self._sql.changed(
            {news: self._marks.get(news, 0)},
            self._parts or Parts(),
            open_=sorted(own_open),
            known=sorted(self._mirror.finished),
            held=claim,
        )
        rows = self._database.run(*before, question, patience_s=patience_s)
        [mark] = [row[2] for row in rows if row[0] == "mark"]
        self._marks[news] = mark
        self._mirror.put(row for row in rows if row[0] not in ("mark", "held"))
        return any(row[0] == "held" for row in rows)
