"""The control resources under /sandbox: rules, instances and requests, while the sandbox runs."""

import asyncio
import hashlib
import json
import os

from aiohttp import web

from sandbox.errors import RuleError
from sandbox.journal import Journal
from sandbox.part10 import is_uid
from sandbox.retrieval import RETRIEVE_PATH, SEARCH_PATHS
from sandbox.rulebook import RuleBook
from sandbox.rules import parse_rule, rule_from
from sandbox.store import Store

NO_ARCHIVE = (
    "This is the Stowgate sandbox: a STOW-RS origin server for tests, demos and benchmarks. It is no archive: it "
    "keeps nothing safe, finds one instance at a time, has no access control worth the name, and misbehaves on "
    "request. Send it nothing that you would miss or that identifies a patient."
)


class Control:
    """Answers requests under /sandbox, and GET /."""

    def __init__(self, store: Store, rules: RuleBook, journal: Journal, root: str) -> None:
        self._store = store
        self._rules = rules
        self._journal = journal
        self._root = root

    def routes(self) -> list[web.RouteDef]:
        """Say which resource is answered by what."""
        return [
            web.get("/", self.introduce),
            web.get("/sandbox", self.summarise),
            web.get("/sandbox/rules", self.list_rules),
            web.post("/sandbox/rules", self.add_rule),
            web.delete("/sandbox/rules", self.clear_rules),
            web.delete("/sandbox/rules/{rule_id:[0-9]+}", self.remove_rule),
            web.get("/sandbox/requests", self.list_requests),
            web.get("/sandbox/instances", self.list_instances),
            web.delete("/sandbox/instances", self.forget),
            web.get("/sandbox/instances/{uid}", self.send_instance),
        ]

    async def introduce(self, _request: web.Request) -> web.Response:
        """Say in plain text what this is, that it is no archive, and where to go."""
        lines = [NO_ARCHIVE, ""]
        lines += [f"{route.method:<7} {route.path.replace('{rule_id:[0-9]+}', '{id}')}" for route in self.routes()]
        lines += [f"POST    {self._root}/studies", f"POST    {self._root}/studies/{{study}}"]
        lines += [f"GET     {self._root}{path}" for path in (*SEARCH_PATHS, RETRIEVE_PATH)]
        return web.Response(text="\n".join(lines) + "\n")

    async def summarise(self, _request: web.Request) -> web.Response:
        """Counts of everything, and "archive": false."""
        sizes = self._store.sizes()
        return web.json_response(
            {
                "archive": False,
                "note": NO_ARCHIVE,
                "dicomweb": self._root,
                "keeps_instances": self._store.directory is not None,
                "requests": self._journal.requests,
                "request_bytes": self._journal.bytes,
                "instances": len(sizes),
                "instance_bytes": sum(sizes.values()),
                "posts": self._store.posts.total(),
                "rules": self._rules.as_list(),
            }
        )

    async def list_rules(self, _request: web.Request) -> web.Response:
        """All rules with their counts, in the order in which they are asked."""
        return web.json_response(self._rules.as_list())

    async def add_rule(self, request: web.Request) -> web.Response:
        """Add a rule, given as a JSON object (application/json) or as text; answers 201 and the rule."""
        try:
            text = (await request.read()).decode()
            rule = rule_from(json.loads(text)) if request.content_type == "application/json" else parse_rule(text)
        except (RuleError, json.JSONDecodeError) as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        except UnicodeDecodeError as error:
            raise web.HTTPBadRequest(text="expected UTF-8, found other bytes\n") from error
        return web.json_response(self._rules.add(rule).as_dict(), status=201)

    async def clear_rules(self, _request: web.Request) -> web.Response:
        """Remove all rules."""
        self._rules.clear()
        return web.Response(status=204)

    async def remove_rule(self, request: web.Request) -> web.Response:
        """Remove one rule."""
        rule_id = request.match_info["rule_id"]
        if not self._rules.remove(int(rule_id)):
            raise web.HTTPNotFound(text=f"expected the number of a rule, found {rule_id}\n")
        return web.Response(status=204)

    async def list_requests(self, _request: web.Request) -> web.Response:
        """The last POSTs to the Studies resource, oldest first."""
        return web.json_response(self._journal.as_list())

    async def list_instances(self, request: web.Request) -> web.Response:
        """The instances kept, with the number of times each was posted; ?digest=1 adds their SHA-256."""
        instances: list[dict[str, object]] = []
        for uid, size_bytes in sorted(self._store.sizes().items()):
            entry: dict[str, object] = {
                "sop_instance_uid": uid,
                "size_bytes": size_bytes,
                "posts": self._store.posts[uid],
            }
            path = self._store.path_of(uid)
            if request.query.get("digest") == "1" and path is not None:
                entry["sha256"] = await asyncio.to_thread(_digest, path)
            instances.append(entry)
        return web.json_response(instances)

    async def forget(self, _request: web.Request) -> web.Response:
        """Delete every instance, every count and the list of requests; rules stay."""
        forgotten = await asyncio.to_thread(self._store.forget)
        self._journal.clear()
        return web.json_response({"forgotten": forgotten})

    async def send_instance(self, request: web.Request) -> web.StreamResponse:
        """The bytes of one instance, as they were posted."""
        uid = request.match_info["uid"]
        path = self._store.path_of(uid) if is_uid(uid) else None
        if path is None or not await asyncio.to_thread(os.path.isfile, path):
            raise web.HTTPNotFound(text="expected the SOP Instance UID of an instance that is kept here\n")
        return web.FileResponse(path, headers={"Content-Type": "application/dicom"})


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
