"""The page's process: `python -m api.ui`. Says its address on stdout once it is served."""

import gc
import logging
import os
import socket
import sys
from urllib.parse import urlsplit

from api.client import Address, Door, address_of, page_url_of
from streams.errors import Invalid, Unavailable
from streams.settings import home_of


def main() -> int:
    # Before gradio is imported: it asks its makers' servers for news unless told not to.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        door = Address(address_of(os.environ).url, None)  # the page acts with its visitors' keys only
        url = page_url_of(os.environ)
        place = urlsplit(url)
        if place.scheme != "http" or place.hostname is None or place.port is None:
            raise Invalid(f"NORIA_PAGE must be http://host:port; got {url!r}")
        listening = socket.create_server((place.hostname, place.port))
    except (Invalid, Unavailable) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{url}: {error.strerror}", file=sys.stderr)
        return 1
    gc.disable()  # nothing of what is loaded can be thrown away: to look for it takes a sixth of the time (measured)
    import uvicorn

    from api.ui.serve import create_app

    hosts = {place.hostname, *(host.strip().lower() for host in os.environ.get("NORIA_PAGE_HOSTS", "").split(","))}
    app = create_app(Door(door), hosts - {""}, home_of(os.environ))
    gc.freeze()
    gc.enable()
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    print(f"page: http://{place.hostname}:{listening.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listening])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
