//! Opening links.

use super::*;

fn start() -> (Arc<Endpoint>, JoinSet<()>) {
    let config = EndpointConfig {
        identity: Identity::generate(),
        listen: Ipv4Addr::LOCALHOST.into(),
        port: 0,
        encryption: false,
        site: None,
        secret: None,
    };
    Endpoint::start(config).expect("loopback")
}

/// Takes a link as a peer that speaks version 1 alone does; true where it came about.
async fn accept_version_1(listener: &TcpListener, identity: &Identity) -> bool {
    let (mut tcp, _) = listener.accept().await.expect("accepts");
    let keypair = identity.keypair();
    plain::handshake(&mut tcp, Role::Listener, keypair).await.expect("the handshake is the same");
    match read_opening(&mut tcp).await.expect("a hello") {
        Opening::Hello(hello) if hello.version == 1 => {
            write_opening(&mut tcp, &Opening::Hello(hello)).await.expect("it is awaited");
            true
        }
        _ => false,
    }
}

#[tokio::test]
async fn a_peer_of_version_1_is_dialled_once_more_in_its_version() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback");
    let addr = listener.local_addr().expect("bound");
    let (endpoint, _tasks) = start();
    let manifest = ManifestId::from_bytes([1; 32]);
    let (opened, _links) = mpsc::channel(1);
    endpoint.serve(manifest, Route { opened, complete: Arc::default(), piece_len_max: 1 << 16 });
    let other = Identity::generate();
    let peer = async {
        assert!(!accept_version_1(&listener, &other).await, "it does not know the first hello");
        assert!(accept_version_1(&listener, &other).await);
    };
    let (open, ()) = tokio::join!(endpoint.dial(addr, manifest), peer);
    assert_eq!(open.expect("the second dial").hello.version, 1);
}
