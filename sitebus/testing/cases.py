"""The same for `unittest`."""

from __future__ import annotations

import functools
import inspect
import unittest
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from sitebus.errors import UsageError
from sitebus.testing import live
from sitebus.testing.served import ServedSite


class SiteTestCase(unittest.TestCase):
    """Tests that talk to a site, which serves while those of the class run.

    .. code-block:: python

        class ShopTest(SiteTestCase):
            application = shop.app

            def test_is_open(self):
                self.assertEqual(urlopen(self.url).status, 200)

    What the site has said is printed when a test fails.

    Attributes:
        application: What `ServedSite` takes as its target, or
        ini: the path of a ``site.ini``.
        settings: Options by ``section.key``.
        served: The site; ``served.log`` is what it has said.
        url: Where it answers.
    """

    application: ClassVar[Any] = None
    ini: ClassVar[str | Path | None] = None
    settings: ClassVar[Mapping[str, object]] = {}
    served: ClassVar[ServedSite]
    url: ClassVar[str]

    def __init__(self, methodName: str = "runTest") -> None:  # noqa: N803 - unittest's name
        super().__init__(methodName)
        method = getattr(self, methodName, None)
        if method is not None:
            setattr(self, methodName, self._telling(method))

    @classmethod
    def setUpClass(cls) -> None:
        """Serve; a subclass that has more to set up calls this one."""
        super().setUpClass()
        if (cls.application is None) == (cls.ini is None):
            raise UsageError(f"{cls.__qualname__} needs one of application and ini")
        target = cls.application if cls.ini is None else Path(cls.ini)
        cls.served = ServedSite(target, settings=cls.settings).start()
        cls.addClassCleanup(cls.served.close)
        live.add(cls.served)
        cls.addClassCleanup(live.remove, cls.served)
        cls.url = cls.served.url

    @contextmanager
    def subTest(self, msg: object = None, **params: Any) -> Iterator[None]:  # noqa: N802
        """Do as `unittest.TestCase.subTest` does, and show the log if it fails."""
        with super().subTest(msg, **params), self._shown_on_failure():
            yield

    def _telling(self, method: Callable[[], Any]) -> Callable[[], Any]:
        """Answer *method*, which prints the log when it fails."""
        if inspect.iscoroutinefunction(method):

            @functools.wraps(method)
            async def tell_async() -> Any:
                with self._shown_on_failure():
                    return await method()

            return tell_async

        @functools.wraps(method)
        def tell() -> Any:
            with self._shown_on_failure():
                return method()

        return tell

    @contextmanager
    def _shown_on_failure(self) -> Iterator[None]:
        try:
            yield
        except unittest.SkipTest:
            raise
        except BaseException:
            live.show(self.served)
            raise
