"""How phantoms of the abdomen are described (`abdomen.py`), drawn (`scan.py` and what it uses) and written."""
