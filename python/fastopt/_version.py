from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fastopt")
except PackageNotFoundError:  # fastopt runs from a source tree that was never installed
    __version__ = "0+unknown"
