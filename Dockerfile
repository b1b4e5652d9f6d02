# The daemon. compose.yaml shows how to run it and why it needs the host's network.
# A base image other than the default one needs Python 3.11 or later as python3, with venv and pip.
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
# read by pip where it is set, such as PIP_INDEX_URL for an index of your own
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
WORKDIR /src
COPY . .
RUN python3 -m venv /opt/leasedb \
    && /opt/leasedb/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /dist . \
    && /opt/leasedb/bin/pip install --no-cache-dir "$(echo /dist/leasedb-*.whl)[server,embedded]" \
    && /opt/leasedb/bin/pip uninstall --yes pip

FROM ${BASE_IMAGE}
COPY --from=build /opt/leasedb /opt/leasedb
# the volume takes its owner from this directory
RUN useradd --uid 7432 --user-group --no-create-home --home-dir /var/lib/leasedb leasedb \
    && install -d -o leasedb -g leasedb -m 0700 /var/lib/leasedb
ENV PATH=/opt/leasedb/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LEASEDB_STATE_DIR=/var/lib/leasedb
VOLUME /var/lib/leasedb
WORKDIR /var/lib/leasedb
USER leasedb
EXPOSE 7432
# a first start may have to pull an image
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ.get('LEASEDB_PORT') or 7432}/readyz\", timeout=4)"]
ENTRYPOINT ["leasedb", "serve"]
