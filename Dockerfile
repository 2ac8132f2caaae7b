# The image of every pod on Kubernetes: docker build -t registry/xray . && docker push registry/xray
FROM python:3.11-slim

# KubeRay's health checks call wget.
RUN apt-get update \
    && apt-get install -y --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/orchestrator
COPY requirements-cluster.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements-cluster.lock
COPY pyproject.toml README.md ./
COPY orchestrator ./orchestrator
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --uid 1000 --create-home ray
USER 1000
