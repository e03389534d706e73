"""nginx, as the HTTP client of examples/ meets it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from .programs import Program, reserved_port

#: after so many requests nginx says ``Connection: close``
REQUESTS_A_CONNECTION = 7

# Without a master process, a SIGKILL ends all of it.
_CONFIGURATION = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/bodies;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 1m;
    default_type text/html;
    server {{
        listen 127.0.0.1:{port};
        root {directory}/files;
        location /say/ {{
            return 200 $uri;
        }}
        location /close/ {{
            keepalive_timeout 0;
            return 200 $uri;
        }}
        location /seven/ {{
            keepalive_requests {requests};
            return 200 $uri;
        }}
        location /chunked/ {{
            ssi on;
            return 200 '<!--#echo var="uri" -->\\r\\n0\\r\\n\\r\\n<!--#echo var="uri" -->';
        }}
        location /until-close/ {{
            ssi on;
            chunked_transfer_encoding off;
            return 200 '<!--#echo var="uri" -->';
        }}
        location /nothing/ {{
            return 204;
        }}
        location /files/ {{
            root {directory};
            dav_methods PUT DELETE;
        }}
    }}
}}
"""


def chunked_body(uri: str) -> bytes:
    """Return what nginx answers below ``/chunked/``: text that looks like the end of it."""
    return f"{uri}\r\n0\r\n\r\n{uri}".encode()


@contextmanager
def nginx(directory: Path) -> Generator[Program]:
    """Run an nginx.

    :param directory: for its configuration, and the files that it is given
    """
    (directory / "files").mkdir()
    configuration = directory / "nginx.conf"
    with reserved_port() as port:
        values = {"directory": directory, "port": port, "requests": REQUESTS_A_CONNECTION}
        configuration.write_text(_CONFIGURATION.format(**values), "utf-8")
        command = ["nginx", "-e", "stderr", "-c", str(configuration)]
        with Program("nginx", command, port, directory / "nginx.log") as program:
            yield program
