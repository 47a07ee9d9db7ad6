//! A swarm of two, small enough to be checked by hand: four pieces of 1,000 bytes. The fetcher
//! asks for a piece 0 that comes at once, for a 1 that comes twice, for a 2 that comes corrupt
//! first, and for a 3 after an idle time.

pub(crate) const SEEDER: &str = r#"{"us":0,"event":"trace","version":1,"wall_us":1000000,"verb":"seed","program":"dft","host":"h","pid":1}
{"us":0,"event":"phase","phase":"start"}
{"us":500000,"event":"node","peer":"SEEDER","manifest":"m","name":"data","pieces":4,"have":4,"bytes":4000}
{"us":500000,"event":"phase","phase":"driving"}
{"us":1050000,"event":"link_up","link":7,"peer":"FETCHER","remote":"10.0.0.2:5","dialled":false,"complete":false,"connect_us":0,"handshake_us":2000,"hello_us":100}
{"us":1060000,"event":"have_sent","link":7,"count":2}
{"us":1100000,"event":"request_received","link":7,"piece":0}
{"us":1100000,"event":"upload_granted","link":7,"piece":0}
{"us":1100000,"event":"sending","link":7,"piece":0}
{"us":1140000,"event":"sent","link":7,"piece":0,"bytes":1000}
{"us":1150000,"event":"upload_granted","link":7,"piece":1}
{"us":1150000,"event":"sending","link":7,"piece":1}
{"us":1200000,"event":"sent","link":7,"piece":1,"bytes":1000}
{"us":2000000,"event":"phase","phase":"exit"}
{"us":2000000,"event":"end","dropped":0}
"#;

pub(crate) const FETCHER: &str = r#"{"us":0,"event":"trace","version":1,"wall_us":2000000,"verb":"fetch","program":"dft","host":"h","pid":2}
{"us":0,"event":"phase","phase":"start"}
{"us":10000,"event":"phase","phase":"manifest"}
{"us":20000,"event":"node","peer":"FETCHER","manifest":"m","name":"data","pieces":4,"have":0,"bytes":4000}
{"us":20000,"event":"phase","phase":"driving"}
{"us":20000,"event":"peers_found","means":"manifest","count":1}
{"us":50000,"event":"link_up","link":0,"peer":"SEEDER","remote":"10.0.0.1:5","dialled":true,"complete":true,"connect_us":1000,"handshake_us":3000,"hello_us":200}
{"us":60000,"event":"link_up","link":1,"peer":"STRANGER","remote":"10.0.0.3:5","dialled":true,"complete":false,"connect_us":1000,"handshake_us":3000,"hello_us":200}
{"us":100000,"event":"request_sent","link":0,"piece":0}
{"us":100000,"event":"request_sent","link":0,"piece":1}
{"us":110000,"event":"arriving","link":0,"piece":0}
{"us":150000,"event":"arrived","link":0,"piece":0,"bytes":1000}
{"us":151000,"event":"checked","link":0,"piece":0,"valid":true}
{"us":150000,"event":"arriving","link":0,"piece":1}
{"us":160000,"event":"request_sent","link":1,"piece":1}
{"us":170000,"event":"arriving","link":1,"piece":1}
{"us":200000,"event":"arrived","link":0,"piece":1,"bytes":1000}
{"us":200000,"event":"cancel_sent","link":1,"piece":1}
{"us":201000,"event":"checked","link":0,"piece":1,"valid":true}
{"us":210000,"event":"arrived","link":1,"piece":1,"bytes":1000,"dropped":true}
{"us":210000,"event":"request_sent","link":1,"piece":2}
{"us":210000,"event":"arriving","link":1,"piece":2}
{"us":230000,"event":"arrived","link":1,"piece":2,"bytes":1000}
{"us":231000,"event":"checked","link":1,"piece":2,"valid":false}
{"us":235000,"event":"request_sent","link":0,"piece":2}
{"us":235000,"event":"arriving","link":0,"piece":2}
{"us":250000,"event":"arrived","link":0,"piece":2,"bytes":1000}
{"us":251000,"event":"checked","link":0,"piece":2,"valid":true}
{"us":300000,"event":"request_sent","link":0,"piece":3}
{"us":350000,"event":"arriving","link":0,"piece":3}
{"us":390000,"event":"arrived","link":0,"piece":3,"bytes":1000}
{"us":391000,"event":"checked","link":0,"piece":3,"valid":true}
{"us":391000,"event":"phase","phase":"verified"}
{"us":395000,"event":"durable","count":4}
{"us":400000,"event":"phase","phase":"complete"}
{"us":450000,"event":"phase","phase":"exit"}
{"us":450000,"event":"end","dropped":0}
"#;
