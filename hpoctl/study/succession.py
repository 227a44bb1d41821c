"""What becomes of the members of a population, in a database: the statements for it; runs none."""

from __future__ import annotations

from hpoctl.population import Stretch
from hpoctl.space import SearchSpace
from hpoctl.study import translate
from hpoctl.study.database import Statement
from hpoctl.study.protocol import PARENT_KEY, Claim
from hpoctl.study.statements import Statements


def keep(sql: Statements, space: SearchSpace, claim: Claim, new: Stretch) -> list[Statement]:
    """Keeps what a claimed trial trains with, and what it goes on from."""
    encode = translate.encoder(space)
    rows = [(name, *encode(name, value)) for name, value in new.params.items()]
    params = sql.keep_params(claim.trial_id, rows)
    if new.parent is None:
        return [params]
    return [params, sql.system_attr(claim, PARENT_KEY, new.parent)]


def inherit(sql: Statements, number: int, trial_id: int) -> Statement:
    """Lets a new trial go on from what trial `number` went on from, if there was such a one."""
    key = sql.key
    statement = (
        f"insert into trial_system_attributes (trial_id, {key}, value_json)"
        f" select {sql.whole_number}, a.{key}, a.value_json from trial_system_attributes a"
        " join trials t on t.trial_id = a.trial_id"
        f" where t.study_id = ? and t.number = ? and a.{key} = ?"
    )
    return statement, [trial_id, sql.study_id, number, PARENT_KEY]
