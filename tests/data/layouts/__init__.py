"""Folders and tables as people have them, made of small files of distinct content."""

from tests.data.layouts.folders import FOLDERS
from tests.data.layouts.public_tables import PUBLIC_TABLES
from tests.data.layouts.tables import TABLES

LAYOUTS = FOLDERS | TABLES | PUBLIC_TABLES
