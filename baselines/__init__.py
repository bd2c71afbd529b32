"""The systems that TAGS is compared with, each behind the bench's one interface."""
