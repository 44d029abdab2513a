"""How `make check` reads annotations: as PEP 484 and mypy do, an int may stand where a float is asked for."""

from beartype import BeartypeConf
from beartype import beartype as _beartype

beartype = _beartype(conf=BeartypeConf(is_pep484_tower=True))
