"""The course: `lessons` (its contents), `session` (what a notebook calls), `notebooks` (how all are executed)."""

from flgc_lib.course.session import Mode, mode, pick, start

__all__ = ["Mode", "mode", "pick", "start"]
