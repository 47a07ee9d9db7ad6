"""What the comparison needs of BitTorrent: a torrent, a tracker, and clients of libtorrent.

    torrent.py make DATASET TORRENT TRACKER-URL
    torrent.py track PORT
    torrent.py seed TORRENT DIRECTORY
    torrent.py fetch TORRENT DIRECTORY
"""

import http.server
import os
import socket
import struct
import sys
import time
import urllib.parse

POLL_SECONDS = 0.02


def make(dataset, torrent, tracker):
    import libtorrent

    storage = libtorrent.file_storage()
    libtorrent.add_files(storage, dataset)
    creator = libtorrent.create_torrent(storage, 0, libtorrent.create_torrent.v1_only)
    creator.add_tracker(tracker)
    libtorrent.set_piece_hashes(creator, os.path.dirname(dataset))
    with open(torrent, "wb") as file:
        file.write(libtorrent.bencode(creator.generate()))


def track(port):
    swarms = {}

    class Tracker(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            query = urllib.parse.urlsplit(self.path).query
            fields = dict(field.split("=", 1) for field in query.split("&") if "=" in field)
            peers = swarms.setdefault(urllib.parse.unquote_to_bytes(fields["info_hash"]), {})
            me = socket.inet_aton(self.client_address[0]) + struct.pack(">H", int(fields["port"]))
            others = b"".join(peer for peer in peers if peer != me)
            peers[me] = True
            body = b"d8:intervali30e12:min intervali5e5:peers%d:%se" % (len(others), others)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    http.server.ThreadingHTTPServer(("0.0.0.0", port), Tracker).serve_forever()


def session(torrent, directory, seeds):
    import libtorrent

    # As it comes, but for what looks beyond the laboratory, and for uTP, which yields to whatever
    # else is on the link.
    client = libtorrent.session({
        "listen_interfaces": "0.0.0.0:6881",
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_outgoing_utp": False,
        "enable_incoming_utp": False,
    })
    flags = libtorrent.torrent_flags.default_flags
    flags &= ~libtorrent.torrent_flags.auto_managed & ~libtorrent.torrent_flags.paused
    if seeds:
        flags |= libtorrent.torrent_flags.seed_mode
    wanted = libtorrent.add_torrent_params()
    wanted.ti = libtorrent.torrent_info(torrent)
    wanted.save_path = directory
    wanted.flags = flags
    return client, client.add_torrent(wanted)


def serve(torrent, directory, seeds):
    client, handle = session(torrent, directory, seeds)
    while not handle.status().is_seeding:
        time.sleep(POLL_SECONDS)
    handle.flush_cache()
    print("COMPLETE")
    while True:
        time.sleep(3600)


def main():
    match sys.argv[1:]:
        case ["make", dataset, torrent, tracker]:
            make(dataset, torrent, tracker)
        case ["track", port]:
            track(int(port))
        case ["seed", torrent, directory]:
            serve(torrent, directory, True)
        case ["fetch", torrent, directory]:
            serve(torrent, directory, False)
        case _:
            sys.exit(__doc__)


main()
