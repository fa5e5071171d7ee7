"""A pytest plugin: makes the methods of the folder RAYPREF_TEST_METHODS known, as if they lay in raypref/methods."""

import os


def pytest_configure() -> None:
    from raypref import methods  # not at the top: jaxtyping must be there first, to check what is imported

    methods.__path__.append(os.environ["RAYPREF_TEST_METHODS"])
