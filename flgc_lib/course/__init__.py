"""The course: `lessons` (its contents), `session` (what a notebook calls), `notebooks` (how all are executed)."""

from flgc_lib.course.session import Mode, agree, mode, pick, start

__all__ = ["Mode", "agree", "mode", "pick", "start"]
