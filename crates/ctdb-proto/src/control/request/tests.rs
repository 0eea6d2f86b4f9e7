use super::*;
use crate::control::Opcode;
use crate::{DbFlags, Generation, Pnn, ReqId};

fn decode(opcode: Opcode, data: &[u8]) -> Result<Request, ControlDecodeError> {
    Request::decode(opcode, Srvid(0), Bytes::copy_from_slice(data))
}

fn encoded(value: &impl Wire) -> Vec<u8> {
    let mut out = Vec::new();
    value.encode(&mut out);
    out
}

/// One more, and one less byte.
fn resized(data: &[u8]) -> [Vec<u8>; 2] {
    let mut longer = data.to_vec();
    longer.push(0);
    [data[..data.len() - 1].to_vec(), longer]
}

#[test]
fn every_served_control_is_decoded() {
    for (opcode, name) in Opcode::served() {
        let error = decode(*opcode, &[]).err();
        let known = !matches!(
            error,
            Some(ControlDecodeError::Unknown { .. } | ControlDecodeError::Obsolete { .. })
        );
        assert!(known, "{name}");
    }
}

#[test]
fn unknown_and_obsolete_controls_say_so_as_the_original_does() {
    let text = |opcode| decode(Opcode(opcode), &[]).unwrap_err().to_string();
    assert_eq!(text(999), "Unknown CTDB control opcode 999");
    assert_eq!(text(106), "Unknown CTDB control opcode 106");
    assert_eq!(text(34), "Control THAW is not implemented any more");
    assert_eq!(
        text(86),
        "Control TRANS2_COMMIT is not implemented any more, use TRANS3_COMMIT instead"
    );
    assert_eq!(text(4), "Invalid data size in opcode 4. Got 0 expected 4");
}

#[test]
fn sizes_must_match() {
    let error = decode(Opcode::PING, &[1]).unwrap_err();
    let opcode = Opcode::PING;
    assert_eq!(
        error,
        ControlDecodeError::BadSize {
            opcode,
            got: 1,
            expected: 0
        }
    );
    assert_eq!(
        decode(Opcode::GET_PNN, &[1]),
        Ok(Request::GetPnn),
        "never looked at"
    );
    for data in resized(&[0; 12]) {
        let error = decode(Opcode::CHECK_PID_SRVID, &data).unwrap_err();
        assert!(matches!(
            error,
            ControlDecodeError::BadSize { expected: 12, .. }
        ));
    }
}

#[test]
fn a_vnn_map_has_nodes_and_no_more_than_its_bytes() {
    let map = |count: u32, pnns: &[u32]| {
        let mut data = encoded(&Generation(5));
        data.extend(encoded(&count));
        for pnn in pnns {
            data.extend(encoded(pnn));
        }
        decode(Opcode::SETVNNMAP, &data)
    };
    assert!(map(2, &[0, 1]).is_ok());
    assert!(map(1, &[0, 1]).is_ok(), "bytes behind the list are ignored");
    assert!(map(0, &[]).is_err());
    assert!(map(3, &[0, 1]).is_err());
    assert!(map(u32::MAX, &[0, 1]).is_err());
    assert!(map(1, &[0xF000_0002]).is_err());
}

#[test]
fn a_database_name_is_a_file_name() {
    let attach = |name: &[u8]| decode(Opcode::DB_ATTACH, name);
    assert_eq!(
        attach(b"a.tdb\0"),
        Ok(Request::DbAttach("a.tdb".to_owned()))
    );
    assert_eq!(
        attach(b"a.tdb\0rest"),
        Ok(Request::DbAttach("a.tdb".to_owned()))
    );
    for bad in [&b"a.tdb"[..], b"", b"\0", b"../a.tdb\0", b"\xff\0"] {
        assert!(attach(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn records_need_headers_where_they_are_stored() {
    let batch = |data: &[u8]| {
        let mut builder = RecBuffer::builder(DbId(1));
        builder.push(ReqId(0), b"key", data);
        builder.finish().to_bytes()
    };
    for (opcode, len, fine) in [
        (Opcode::UPDATE_RECORD, 23, false),
        (Opcode::UPDATE_RECORD, 24, true),
        (Opcode::TRANS3_COMMIT, 0, false),
        (Opcode::TRANS3_COMMIT, 30, true),
        (Opcode::TRY_DELETE_RECORDS, 23, false),
        (Opcode::TRY_DELETE_RECORDS, 24, true),
        (Opcode::TRY_DELETE_RECORDS, 25, false),
        (Opcode::VACUUM_FETCH, 0, true),
    ] {
        let data = batch(&vec![0; len]);
        assert_eq!(
            decode(opcode, &data).is_ok(),
            fine,
            "{opcode} with {len} bytes"
        );
    }
}

#[test]
fn lengths_inside_must_reach_the_end() {
    let notify = encoded(&NotifyData {
        srvid: Srvid(1),
        data: Bytes::from_static(b"ab"),
    });
    let record = encoded(&RecData {
        key: Bytes::from_static(b"k"),
        ..RecData::end(ReqId(1))
    });
    let header = RecordHeader::default();
    let key = Bytes::from_static(b"k");
    let key = encoded(&KeyData {
        db_id: DbId(1),
        header,
        key,
    });
    for (opcode, data) in [
        (Opcode::REGISTER_NOTIFY, notify),
        (Opcode::TRAVERSE_DATA, record),
        (Opcode::SCHEDULE_FOR_DELETION, key),
    ] {
        assert!(decode(opcode, &data).is_ok(), "{opcode}");
        for data in resized(&data) {
            assert!(
                decode(opcode, &data).is_err(),
                "{opcode} with {} bytes",
                data.len()
            );
        }
    }
}

#[test]
fn the_interfaces_of_an_address_need_their_nul() {
    let addr = SockAddr("10.0.0.1:0".parse().unwrap());
    let info = AddrInfo {
        addr,
        mask_bits: 24,
        ifaces: "eth0".to_owned(),
    };
    let good = encoded(&info);
    assert_eq!(good.len(), 36 + 5);
    assert_eq!(
        decode(Opcode::ADD_PUBLIC_IP, &good),
        Ok(Request::AddPublicIp(info))
    );
    let mut without_nul = good.clone();
    without_nul[40] = b'1';
    assert!(decode(Opcode::ADD_PUBLIC_IP, &without_nul).is_err());
    assert!(decode(Opcode::ADD_PUBLIC_IP, &[good, vec![0]].concat()).is_err());
}

#[test]
fn a_tickle_list_may_have_bytes_behind_it_but_not_too_few() {
    let addr = SockAddr("10.0.0.1:0".parse().unwrap());
    let connections = vec![Connection {
        src: addr,
        dst: addr,
    }];
    let good = encoded(&TickleList { addr, connections });
    let [shorter, longer] = resized(&good);
    assert!(decode(Opcode::SET_TCP_TICKLE_LIST, &longer).is_ok());
    assert!(decode(Opcode::SET_TCP_TICKLE_LIST, &shorter).is_err());
}

#[test]
fn an_interface_is_set_up_or_down_and_nothing_else() {
    let mut good = vec![0; 24];
    good[..4].copy_from_slice(b"eth0");
    good[18] = 1;
    assert!(decode(Opcode::SET_IFACE_LINK_STATE, &good).is_ok());
    for (offset, value) in [(18, 2), (20, 1)] {
        let mut bad = good.clone();
        bad[offset] = value;
        assert!(decode(Opcode::SET_IFACE_LINK_STATE, &bad).is_err());
    }
    good[..17].fill(b'x');
    assert!(decode(Opcode::SET_IFACE_LINK_STATE, &good).is_err());
}

#[test]
fn a_full_vacuum_is_zero_or_one() {
    let vacuum = |flag| decode(Opcode::DB_VACUUM, &[1, 0, 0, 0, flag]);
    assert_eq!(
        vacuum(1),
        Ok(Request::DbVacuum(DbVacuum {
            db_id: DbId(1),
            full: true
        }))
    );
    assert!(vacuum(2).is_err());
}

#[test]
fn a_traverse_flag_is_anything_but_zero() {
    let mut data = vec![0xAA; 24];
    data[16] = 7;
    let Ok(Request::TraverseStartExt(request)) = decode(Opcode::TRAVERSE_START_EXT, &data) else {
        panic!("not decoded");
    };
    assert!(request.with_empty_records);
}

#[test]
fn tunable_names_do_not_need_their_nul() {
    let get = |data: &[u8]| decode(Opcode::GET_TUNABLE, data);
    let name = || {
        Request::GetTunable(GetTunable {
            name: "Name".to_owned(),
        })
    };
    assert_eq!(get(b"\x04\0\0\0Name"), Ok(name()));
    assert_eq!(get(b"\x05\0\0\0Name\0"), Ok(name()));
    assert!(get(b"\x06\0\0\0Name\0").is_err());
    assert!(matches!(
        get(b"\x01\0\0\0N"),
        Err(ControlDecodeError::BadSize { expected: 8, .. })
    ));
}

#[test]
fn a_short_tunable_name_is_long_enough_for_a_daemon() {
    for name in ["", "ab", "abc"] {
        let request = Request::GetTunable(GetTunable {
            name: name.to_owned(),
        });
        let (opcode, _, data) = request.encode();
        assert_eq!(data.len(), 8);
        assert_eq!(decode(opcode, &data), Ok(request));
    }
}

#[test]
fn the_srvid_of_the_packet_is_the_argument_of_some() {
    let request = Request::decode(Opcode::REGISTER_SRVID, Srvid(5), Bytes::new()).unwrap();
    assert_eq!(request, Request::RegisterSrvid(Srvid(5)));
    assert_eq!(
        request.encode(),
        (Opcode::REGISTER_SRVID, Srvid(5), Bytes::new())
    );
    let (_, srvid, data) = Request::GetDbPath(DbId(1)).encode();
    assert_eq!((srvid, data.len()), (Srvid(0), 4));
}

#[test]
fn roles_are_given_by_any_number_but_zero() {
    assert_eq!(
        decode(Opcode::SET_LMASTERROLE, &[2, 0, 0, 0]),
        Ok(Request::SetLmasterRole(true))
    );
    assert_eq!(
        decode(Opcode::SET_RECMASTERROLE, &[0; 4]),
        Ok(Request::SetRecmasterRole(false))
    );
}

#[test]
fn an_address_without_a_host_is_told_from_a_bad_one() {
    let addr = SockAddr("10.0.0.1:0".parse().unwrap());
    let data = encoded(&PublicIp { pnn: None, addr });
    let Ok(Request::ReleaseIp(ip)) = decode(Opcode::RELEASE_IP, &data) else {
        panic!("not decoded");
    };
    assert_eq!(ip.pnn, None);
    let mut data = encoded(&PublicIp {
        pnn: Pnn::new(1),
        addr,
    });
    data[3] = 0xF0;
    assert!(decode(Opcode::RELEASE_IP, &data).is_err());
}

#[test]
fn database_flags_keep_unknown_bits() {
    let data = [1, 0, 0, 0, 0x83, 9, 9, 9];
    let entry = crate::DbidEntry::decode(&mut &data[..]).unwrap();
    assert_eq!(entry.flags, DbFlags::from_bits_retain(0x83));
}
