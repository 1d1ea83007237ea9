"""The peers from PyPI: answers each line of input with one line, times in nanoseconds."""

import os
import sys
import time

directory = sys.argv[1]
django_file = os.path.join(directory, "django.sqlite")


def django_lockmgr():
    import django
    from django.conf import settings
    from django.core.management import call_command

    database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": django_file,
        "OPTIONS": {"timeout": 10},
    }
    settings.configure(
        DATABASES={"default": database},
        INSTALLED_APPS=["lockmgr"],
        USE_TZ=True,
        SECRET_KEY="unused",
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    )
    django.setup()
    if not os.path.exists(django_file):
        call_command("migrate", verbosity=0)
    from lockmgr import lockmgr

    return lockmgr


lockmgr = django_lockmgr()
import filelock  # noqa: E402

file_lock = filelock.FileLock(os.path.join(directory, "filelock"))
held = None


def timed(work):
    began = time.monotonic_ns()
    work()
    return time.monotonic_ns() - began


def versions(*_):
    from importlib.metadata import version

    names = ("django-lockmgr", "Django", "filelock")
    python = "Python " + sys.version.split()[0]
    return ", ".join([f"{name} {version(name)}" for name in names] + [python])


def set_lock(name):
    return timed(lambda: lockmgr.set_lock(name))


def is_locked(name, calls):
    calls = int(calls)
    lockmgr.is_locked(name)

    def work():
        for _ in range(calls):
            lockmgr.is_locked(name)

    return timed(work) // calls


def unlock(name):
    return timed(lambda: lockmgr.unlock(name))


def hold(kind):
    global held
    if kind == "filelock":
        file_lock.acquire()
    else:
        held = lockmgr.get_lock("x")
    return "held"


def release(kind):
    now = time.monotonic_ns()
    if kind == "filelock":
        file_lock.release()
    else:
        lockmgr.unlock(held)
    return now


def wait(kind):
    if kind == "filelock":
        with file_lock:
            return time.monotonic_ns()
    with lockmgr.LockMgr("x", wait=60):
        return time.monotonic_ns()


verbs = (versions, set_lock, is_locked, unlock, hold, release, wait)
commands = {verb.__name__: verb for verb in verbs}
print("ready", flush=True)
for line in sys.stdin:
    verb, *arguments = line.split()
    print(commands[verb](*arguments), flush=True)
