"""The two kinds of failure a person meets; every error of ours is one of them and says what to mend."""


class UsageError(ValueError):
    """Something given is wrong: a setting, a file, a directory. Nothing was run."""


class FailedRunError(RuntimeError):
    """What was asked for could not be done; what had finished by then is kept."""
