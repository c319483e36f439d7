"""The extractor that asks a language model behind a server with OpenAI's API.

The official client is used because it already has what such calls need: time-outs, retries with growing pauses, waiting
as long as a server asks for, and parallel requests. It also works with other servers that have this API, such as vLLM,
llama.cpp, Ollama and `transformers serve`.
"""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import os
import re
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from spatialboost.errors import SpatialBoostError, StoppedError
from spatialboost.scenes.extract.language import prompts
from spatialboost.scenes.extract.language.answers import Answers, Usage
from spatialboost.scenes.extract.language.requests import (
    NOT_JSON,
    Reply,
    Request,
    check_options,
    make_additions,
    make_requests,
    read_pairs,
)
from spatialboost.scenes.extract.protocol import Addition, PartialCues

log = logging.getLogger(__name__)

MAX_TOKENS = {"caption": 300, "vqa": 4000, "scene_vqa": 4000}  # of one answer
CONNECT_SECONDS = 10.0
MANY = 4  # so many failed requests and no good one: the server is down, not the request bad
_QUALITY = 90  # of the JPEG that is sent


class Endpoint:
    """Captions and question-answer pairs of a language model behind an OpenAI-compatible server.

    Example::

        extractor = open_extractor("endpoint", model="gpt-5-mini", answers="answers", what="caption")
        views = Extracted(source, [extractor])

    The key is read from the environment variable OPENAI_API_KEY, and from nowhere else. It is not stored, logged or
    shown. A server of one's own usually needs none.

    A view whose answer cannot be used keeps its other turns, and ``facts["dropped"]`` counts the reasons. If the server
    cannot be reached, refuses the key, does not know the model, or fails in every request of a batch, the build stops
    with a `StoppedError`; the same command continues it.

    Args:
        model: name of the model, as the server knows it.
        answers: folder for the answers and the ledger of what they cost. What is there is not asked for again.
        base_url: address of the server, such as ``http://127.0.0.1:8000/v1``; default: the environment variable
            OPENAI_BASE_URL, otherwise OpenAI.
        what: "caption", "vqa" (question-answer pairs) or "both".
        images: send the images; False for a model that only reads text. It then gets what is known of the objects.
        pairs: number of pairs of each of the three styles.
        concurrency: number of requests at the same time.
        timeout: seconds to wait for an answer.
        retries: number of further tries after a failure.
        input_price: price of a million tokens that the model reads, in any currency.
        output_price: price of a million tokens that it writes.
        budget: the build stops when the answers in the folder have cost so much, in the same currency; 0 = no limit.

    Raises:
        SpatialBoostError: an option or the key cannot be used.
    """

    kind = "text"
    stores_answers = True

    def __init__(
        self,
        *,
        model: str = "",
        answers: str = "",
        base_url: str = "",
        what: str = "both",
        images: bool = True,
        pairs: int = 2,
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 5,
        input_price: float = 0.0,
        output_price: float = 0.0,
        budget: float = 0.0,
    ) -> None:
        check_options(what, pairs, images)
        if not model or not answers:
            raise SpatialBoostError(
                "the extractor endpoint needs the name of a model and a folder for its answers: "
                "endpoint:model=NAME,answers=FOLDER"
            )
        numbers = {"timeout": timeout, "input_price": input_price, "output_price": output_price, "budget": budget}
        for name, value in {**numbers, "retries": retries, "concurrency": concurrency}.items():
            whole = name in ("retries", "concurrency")
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not 0 <= value < 1e9:
                raise SpatialBoostError(f"{name} is {value!r}; expected a {'whole ' if whole else ''}number from 0 on")
        if not concurrency or not timeout:
            raise SpatialBoostError(f"concurrency is {concurrency} and timeout {timeout}; expected more than 0")
        if budget and not (input_price or output_price):
            raise SpatialBoostError(
                f"a budget of {budget} needs input_price and output_price: the prices of a million tokens"
            )
        self.model, self.what, self.images, self.pairs = model, what, images, pairs
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL", "")
        if self.base_url and not re.match(r"https?://[^/]", self.base_url):
            raise SpatialBoostError(f"base_url is {self.base_url!r}; expected http://HOST:PORT/v1 or https://...")
        self.concurrency, self.timeout, self.retries = concurrency, float(timeout), retries
        self.prices, self.budget = (input_price, output_price), budget
        self._limit, self._sampling = "max_tokens", {"temperature": 0}
        self._complaint = ""  # what the server said last about a request that failed
        _key(self.base_url)  # a missing key is reported before anything is built
        _client_library()
        self.answers = Answers(answers)
        sees = "" if images else " from text"
        self.name = f"{what} of {model}{sees}" + ("" if what == "caption" else f" with {pairs} pairs of a style")
        self.provenance = {"model": model, "prompts": prompts.VERSION, "licence": "see the terms of the model's server"}

    def __call__(self, views: Sequence[PartialCues], /) -> list[Addition]:
        requests = make_requests(views, what=self.what, pairs=self.pairs, images=self.images)
        replies = _run(self._ask_all(requests))
        self.answers.write_totals()
        return make_additions(views, requests, replies)

    async def _ask_all(self, requests: Sequence[Request]) -> list[Reply]:
        """Answers to all requests, in their order; equal ones are asked once."""
        openai = _client_library()
        keys = [request.hash(self.model) for request in requests]
        waiting = asyncio.Semaphore(self.concurrency)
        stops: list[StoppedError] = []
        async with openai.AsyncOpenAI(
            api_key=_key(self.base_url),
            base_url=self.base_url or None,
            timeout=openai.Timeout(self.timeout, connect=min(CONNECT_SECONDS, self.timeout)),
            max_retries=self.retries,
        ) as client:

            async def ask(key: str, request: Request) -> Reply:
                async with waiting:
                    try:
                        return Reply("") if stops else await self._ask(client, key, request)
                    except StoppedError as error:  # answers on their way are paid for: they are still waited for
                        stops.append(error)
                        return Reply("")

            different = dict(zip(keys, requests, strict=True))
            tasks = {key: asyncio.ensure_future(ask(key, request)) for key, request in different.items()}
            await asyncio.gather(*tasks.values())
        if stops:
            raise stops[0]
        replies = {key: task.result() for key, task in tasks.items()}
        problems = sorted({reply.problem for reply in replies.values()})
        if len(replies) >= MANY and all(problems):
            raise StoppedError(
                f"{self._where} failed in all {len(replies)} requests of a batch ({', '.join(problems)}"
                f"{f', and said: {self._complaint}' if self._complaint else ''}). What is done is kept: see to the "
                "server, and run the same command again"
            )
        return [replies[key] for key in keys]

    async def _ask(self, client: Any, key: str, request: Request) -> Reply:
        """The answer to one request: a stored one, or a new one, which is stored.

        If pairs are no JSON, the model gets its reply back once, and is asked for JSON.
        """
        stored = self.answers.load(key)
        if stored is not None:
            return Reply(stored["text"], bool(stored.get("cut")))
        messages = self._messages(request)
        reply, usage = await self._send(client, request, messages)
        if not reply.problem and not reply.cut and request.key != "caption" and not _is_json(reply.text):
            again = [
                {"role": "assistant", "content": reply.text[:2000]},
                {"role": "user", "content": prompts.AGAIN},
            ]
            second, more = await self._send(client, request, [*messages, *again])
            reply, usage = (reply if second.problem else second), usage + more
        try:
            if reply.problem:
                if usage.requests:
                    self.answers.pay(usage)
            else:
                self.answers.save(key, {"text": reply.text, "cut": reply.cut}, usage)
        except OSError as error:
            raise StoppedError(
                f"{self.answers.folder}: {(error.strerror or str(error)).lower()}; the answers cannot be stored"
            ) from None
        return reply

    async def _send(self, client: Any, request: Request, messages: Sequence[dict[str, Any]]) -> tuple[Reply, Usage]:
        """One request. The client tries again after failures that may pass."""
        openai = _client_library()
        spent = self.answers.usage.cost
        if self.budget and spent >= self.budget:
            raise StoppedError(
                f"the budget of {self.budget:g} is spent ({self.answers.usage}). What is done is kept: run the same "
                "command with a larger budget to continue"
            )
        try:
            found = await self._create(client, request, messages)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise StoppedError(
                f"{self._where} refuses the requests: {error.status_code} {self._said(error)}. Check OPENAI_API_KEY, "
                "base_url and the name of the model"
            ) from None
        except openai.APITimeoutError:
            return Reply("", problem="no answer: timed out"), Usage()
        except openai.APIConnectionError as error:
            unreachable, self._complaint = _cause(error)
            if unreachable:
                raise StoppedError(
                    f"{self._where} cannot be reached ({self._complaint}). What is done is kept: start the server, and "
                    "run the same command again"
                ) from None
            return Reply("", problem="no answer: the connection broke"), Usage()
        except openai.APIStatusError as error:
            self._complaint = self._said(error)
            log.warning("%s: %s %s", self._where, error.status_code, self._complaint)
            return Reply("", problem=f"no answer: status {error.status_code}"), Usage()
        except (openai.OpenAIError, ValueError) as error:  # a body that is no JSON, or JSON of another form
            log.warning("%s: %s", self._where, type(error).__name__)
            return Reply("", problem=f"no answer: {NOT_JSON}"), Usage()
        return self._read(found)

    async def _create(self, client: Any, request: Request, messages: Sequence[dict[str, Any]]) -> Any:
        """Send one request. Models that think before they answer refuse two of the usual parameters."""
        openai = _client_library()
        while True:
            limit = {self._limit: MAX_TOKENS[request.key]}
            try:
                return await client.chat.completions.create(
                    model=self.model, messages=list(messages), **limit, **self._sampling
                )
            except openai.BadRequestError as error:
                said = str(error.message)
                if "max_completion_tokens" in said and self._limit == "max_tokens":
                    self._limit = "max_completion_tokens"
                elif "temperature" in said and self._sampling:
                    self._sampling = {}
                else:
                    raise

    def _read(self, found: Any) -> tuple[Reply, Usage]:
        """Text and cost of a completion, whatever the server put into it."""
        usage = getattr(found, "usage", None)
        read, written = (getattr(usage, name, 0) or 0 for name in ("prompt_tokens", "completion_tokens"))
        if not all(isinstance(number, int) and number >= 0 for number in (read, written)):
            read = written = 0
        cost = (read * self.prices[0] + written * self.prices[1]) / 1e6
        spent = Usage(1, read, written, cost)
        try:
            choice = found.choices[0]
            text = choice.message.content
        except (AttributeError, IndexError, TypeError):  # a page of HTML is handed on as text
            return Reply("", problem=f"no answer: {NOT_JSON}"), spent
        if not isinstance(text, str) or not text.strip():
            return Reply("", problem="no answer: it is empty"), spent
        return Reply(_without_thoughts(text), cut=choice.finish_reason == "length"), spent

    def _messages(self, request: Request) -> list[dict[str, Any]]:
        content: Any = request.prompt
        if request.images_HW3:
            content = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in request.images_HW3]
            content.append({"type": "text", "text": request.prompt})
        return [{"role": "system", "content": prompts.SYSTEM}, {"role": "user", "content": content}]

    @property
    def _where(self) -> str:
        return f"{self.model} at {self.base_url or 'OpenAI'}"

    def _said(self, error: Any) -> str:
        """The message of a server, on one short line and without the key."""
        text = " ".join(str(getattr(error, "message", "")).split())
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        text = text.replace(key, "***") if key else text
        return re.sub(r"\b(?:sk|key|pk)-\S+", "***", text)[:200]


def _key(base_url: str) -> str:
    """The key from the environment."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and not base_url:
        raise SpatialBoostError(
            "there is no key for OpenAI: set the environment variable OPENAI_API_KEY, or give base_url for a server of "
            "your own"
        )
    if not re.fullmatch(r"[!-~]*", key):
        raise SpatialBoostError("OPENAI_API_KEY has spaces or special characters; expected a key such as sk-...")
    return key or "none"


def _client_library() -> Any:
    try:
        import openai
    except ModuleNotFoundError:
        raise SpatialBoostError(
            'the extractor endpoint needs the package openai: pip install "spatialboost[language]"'
        ) from None
    return openai


def _cause(error: BaseException) -> tuple[bool, str]:
    """Whether a server could not be reached at all, and the system's words for it, such as "connection refused"."""
    causes: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in causes:
        causes.append(each)
        each = each.__cause__ or each.__context__
    unreachable = any("ConnectError" in type(each).__name__ for each in causes)  # of the HTTP library below the client
    known = [each for each in causes if isinstance(each, OSError) and each.strerror]
    text = str(known[-1].strerror) if known else str(error) or type(error).__name__  # type: ignore[attr-defined]
    return unreachable, " ".join(text.split()).lower()[:120]


def _run(work: Coroutine[Any, Any, list[Reply]]) -> list[Reply]:
    """Run an asynchronous function; in a thread of its own if this one already has an event loop, as in a notebook."""
    if not _has_loop():
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _is_json(text: str) -> bool:
    try:
        return bool(read_pairs(text))
    except ValueError as error:
        return str(error) != NOT_JSON


def _without_thoughts(text: str) -> str:
    """The answer after the thoughts that some models write before it."""
    return re.sub(r"^\s*<think>.*?</think>", "", text, flags=re.DOTALL).strip()


def _data_url(image_HW3: Any) -> str:
    stream = io.BytesIO()
    Image.fromarray(image_HW3).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
