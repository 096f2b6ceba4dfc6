# freqtrade's own image for FreqAI's reinforcement learning, of the version that pyproject.toml pins, and this package on it.
#
#   docker build --tag freqtrade-mtfscalper .
#   docker run --rm --volume ./user_data:/freqtrade/user_data freqtrade-mtfscalper --version
#
# docs/service.md goes on from here.
ARG FREQTRADE=2026.9
FROM freqtradeorg/freqtrade:${FREQTRADE}_freqairl

COPY --chown=ftuser:ftuser . /tmp/mtfscalper
# What the image has stays as it is where it satisfies the package; freqtrade itself must.
RUN pip install --user --no-cache-dir '/tmp/mtfscalper[report,search]' && rm -rf /tmp/mtfscalper

# The image's own: freqtrade. With --entrypoint mtfscalper it is the other command.
ENTRYPOINT ["freqtrade"]
CMD ["trade"]
