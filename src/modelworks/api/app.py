"""The HTTP API: who may ask, what is refused before a route runs, and the routes of every product."""

from __future__ import annotations

from fastapi import APIRouter, Depends, FastAPI

from modelworks import __version__
from modelworks.api import nodes, openapi, platform, problems, queue, resources, streams
from modelworks.api.auth import Keyring, authenticate, ensure_local_key
from modelworks.api.body import StrictRequests
from modelworks.control.context import Context
from modelworks.products.billing import routes as billing
from modelworks.products.catalogue import routes as catalogue
from modelworks.products.quotas import routes as quotas
from modelworks.products.registry import routes as registry
from modelworks.products.serving import routes as serving
from modelworks.products.storage import routes as storage
from modelworks.products.sweeps import routes as sweeps
from modelworks.products.training import routes as training

PREFIX = "/api/v1"
_PRODUCTS = (training, sweeps, serving, registry, storage, billing, catalogue, quotas)


def create_app(context: Context) -> FastAPI:
    """The app over one controller's parts. The local user's key is made, and known, from here on."""
    app = FastAPI(
        title="Modelworks",
        version=__version__,
        description="A self-hosted machine-learning platform. Errors are RFC 9457 problems.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a path that is not there is a problem, and no client sends its key twice
    )
    app.state.context = context
    app.state.keyring = Keyring(context.engine)
    ensure_local_key(context.home, context.engine)
    app.add_middleware(StrictRequests)
    problems.install(app)
    routes(app)
    openapi.install(app, context.kinds)
    return app


def routes(app: FastAPI) -> None:
    """Every route below ``/api/v1``; only the health check is open."""
    closed = APIRouter(prefix=PREFIX, dependencies=[Depends(authenticate)])
    own = (resources.router, streams.router, platform.router, nodes.router, queue.router)
    for part in (*own, *(product.router() for product in _PRODUCTS)):
        closed.include_router(part)
    app.include_router(platform.open_router, prefix=PREFIX)
    app.include_router(closed)
