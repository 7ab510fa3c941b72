"""FastAPI with prometheus-fastapi-instrumentator."""

import asyncio
import os
import signal

from fastapi import FastAPI, HTTPException
from prometheus_fastapi_instrumentator import Instrumentator

app = FastAPI()


@app.get("/")
async def main():
    return {"answered": "in the event loop"}


@app.get("/threads")
def threads():
    return {"answered": "in a thread"}


@app.get("/orders/{kind}")
async def orders(kind: str):
    return {"orders": kind}


@app.get("/slow")
async def slow():
    await asyncio.sleep(0.01)
    return {"answered": "later"}


@app.get("/gone")
async def gone():
    raise HTTPException(410)


@app.get("/error")
async def error():
    raise RuntimeError("an error that nobody handles")


@app.get("/crash")
async def crash():
    os.kill(os.getpid(), signal.SIGKILL)


Instrumentator(
    should_group_status_codes=False,
    should_instrument_requests_inprogress=True,
    inprogress_name="inprogress",
    inprogress_labels=True,
).instrument(app).expose(app)
