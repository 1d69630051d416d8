"""Annotations are read as Python reads them: where a float is asked for, an int will do."""

import beartype

check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
