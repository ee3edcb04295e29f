"""A cache of answers by meaning: a question near enough to an earlier one gets the earlier one's answer.

Apart from `extproc.cache`, which stays exact: this one is asked when that one has no answer, keeps only vectors, and
points at entries of that one. Weakness: near is not equal. Questions that differ in a number, a name or a `not` may be
near, and then get a wrong answer; no threshold keeps all of them out (docs/cache.md, `headgate cache evaluate`).
"""
