# The program as an image. `docker build .` makes the one for CPUs, `docker build --target cuda .` the one for NVIDIA's
# GPUs. It needs a bundle on /bundle (see compose.yaml), and nothing of it is written to: run it read-only.
FROM python:3.13-slim AS locked

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
RUN python -m venv /opt/fraudline
WORKDIR /src

# The lock alone first: this layer, the big one, is built again only when a dependency changes.
COPY requirements.txt ./
RUN /opt/fraudline/bin/pip install --require-hashes --only-binary :all: -r requirements.txt


FROM python:3.13-slim AS wheel

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY features ./features
COPY models ./models
COPY consumer ./consumer
RUN python -m pip wheel --no-deps --wheel-dir /wheels .


# NCCL, which XGBoost brings for training on several GPUs, is 300 MB that no CPU uses.
FROM locked AS built-cpu

COPY --from=wheel /wheels /wheels
RUN /opt/fraudline/bin/pip install --no-deps --no-index /wheels/*.whl \
 && /opt/fraudline/bin/pip check \
 && /opt/fraudline/bin/pip uninstall --yes nvidia-nccl-cu12 \
 && NUMBA_CACHE_DIR=/opt/fraudline/kernels /opt/fraudline/bin/python -m features.warm \
 && NUMBA_CACHE_DIR=/opt/fraudline/kernels /opt/fraudline/bin/python -m models.warm \
 && /opt/fraudline/bin/python -m pip uninstall --yes pip


# CuPy and the libraries of CUDA; the driver comes from the node.
FROM locked AS built-cuda

COPY requirements-cuda.txt ./
RUN /opt/fraudline/bin/pip install --require-hashes --only-binary :all: -r requirements-cuda.txt
COPY --from=wheel /wheels /wheels
RUN /opt/fraudline/bin/pip install --no-deps --no-index /wheels/*.whl \
 && /opt/fraudline/bin/pip check \
 && NUMBA_CACHE_DIR=/opt/fraudline/kernels /opt/fraudline/bin/python -m features.warm \
 && NUMBA_CACHE_DIR=/opt/fraudline/kernels /opt/fraudline/bin/python -m models.warm \
 && /opt/fraudline/bin/python -m pip uninstall --yes pip


FROM python:3.13-slim AS base

LABEL org.opencontainers.image.title="fraudline" \
      org.opencontainers.image.description="Real-time fraud detection on Kafka: exactly-once decisions from exact features" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

# No home and no shell for this user; the number is what Kubernetes' runAsNonRoot can check.
RUN groupadd --gid 65532 fraudline \
 && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin fraudline

ENV PATH=/opt/fraudline/bin:$PATH \
    NUMBA_CACHE_DIR=/opt/fraudline/kernels \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532
EXPOSE 9464 9465

# Whatever address telemetry listens on, this one is among them; a 503 raises, which is a failure.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('FRAUDLINE_TELEMETRY__PORT', '9464') + '/livez', timeout=3)"]

ENTRYPOINT ["fraudline"]
CMD ["run"]


FROM base AS cuda

# The user has no home: what CuPy compiles is kept where everything may be written.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility CUPY_CACHE_DIR=/tmp/cupy
COPY --from=built-cuda /opt/fraudline /opt/fraudline


FROM base AS cpu

COPY --from=built-cpu /opt/fraudline /opt/fraudline
