"""Records behind an address: a real HTTP server on the loopback interface."""

import functools
import http.server
import threading

import numpy as np
import pytest

from workbench.data.store import open_record
from workbench.data.writer import write_record
from workbench.errors import InputError

pytest.importorskip("aiohttp", reason="the extra 'remote' is not installed")


@pytest.fixture
def address(tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_zarr_store_opens_over_http(record, tmp_path, address):
    write_record(record, tmp_path / "a.zarr")
    remote = open_record(f"{address}/a.zarr")
    assert remote.slp.attrs["units"] == "Pa"
    np.testing.assert_array_equal(remote.slp.isel(time=slice(3, 6)).values, record.slp.values[:, 3:6])


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_netcdf_file_opens_over_http(record, tmp_path, address):
    record.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    remote = open_record(f"{address}/a.nc")
    np.testing.assert_array_equal(remote.t2m.isel(time=4).values, record.t2m.values[:, 4])
    remote.close()


def test_nothing_at_an_address_is_said(address):
    with pytest.raises(InputError, match="cannot open 'http://.*/none.nc' as NetCDF"):
        open_record(f"{address}/none.nc")
    with pytest.raises(InputError, match="cannot open 'http://.*/none.zarr' as Zarr"):
        open_record(f"{address}/none.zarr")
