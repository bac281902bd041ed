use super::*;

fn layout(bytes: usize, align: usize) -> Layout {
    Layout::from_size_align(bytes, align).unwrap()
}

#[test]
fn a_class_is_at_most_an_eighth_larger() {
    let mut bytes = LEAST;
    while bytes <= MOST {
        for bytes in [bytes, bytes - 1, bytes + 1] {
            let Some(class) = Class::of(layout(bytes, 8)) else {
                assert!(!(LEAST..=MOST).contains(&bytes));
                continue;
            };
            assert!(
                class.bytes >= bytes && class.bytes <= bytes + bytes / 8,
                "{bytes} {class:?}"
            );
            assert_eq!(Class::at(class.index), class);
            assert!(class.index < CLASSES);
        }
        bytes += bytes / 16;
    }
    assert_eq!(Class::of(layout(LEAST, 256)), None);
    assert_eq!(Class::of(layout(MOST, 64)).map(|class| class.index), Some(CLASSES - 1));
}

#[test]
fn what_is_freed_is_handed_out_again_and_zeroed_where_asked() {
    let buffers = Buffers::new();
    let (size, same) = (layout(1 << 20, 8), layout((1 << 20) - 5, 64));
    // SAFETY: each buffer is used within its size and freed once, with its layout.
    unsafe {
        let first = buffers.alloc(size);
        first.write_bytes(7, size.size());
        buffers.dealloc(first, size);
        let again = buffers.alloc_zeroed(same);
        assert_eq!(again, first);
        assert!(
            std::slice::from_raw_parts(again, same.size())
                .iter()
                .all(|&byte| byte == 0)
        );
        again.write_bytes(3, same.size());
        let moved = buffers.realloc(again, same, 3 << 20);
        assert!(
            std::slice::from_raw_parts(moved, same.size())
                .iter()
                .all(|&byte| byte == 3)
        );
        assert_eq!(moved.addr() % ALIGNMENT, 0);
        let small = buffers.realloc(moved, layout(3 << 20, 64), 100);
        assert_eq!(*small.add(99), 3);
        buffers.dealloc(small, layout(100, 64));
    }
}

#[test]
fn what_is_kept_adds_little_to_what_was_needed() {
    let buffers = Buffers::new();
    let (size, large) = (layout(MOST, 8), layout(4 * MOST, 8));
    // SAFETY: each buffer is freed once, with its layout.
    unsafe {
        let taken: Vec<*mut u8> = (0..6).map(|_| buffers.alloc(size)).collect();
        for buffer in taken {
            buffers.dealloc(buffer, size);
        }
        assert_eq!(buffers.kept().bytes, 6 * MOST);
        let beside = buffers.alloc(large);
        assert_eq!(buffers.kept().bytes, 2 * MOST);
        let more = buffers.alloc(large);
        assert_eq!(buffers.kept().bytes, MOST);
        buffers.dealloc(beside, large);
        buffers.dealloc(more, large);
    }
    assert_eq!(buffers.kept().used, 0);
}

#[test]
fn what_waits_goes_back_before_memory_is_refused() {
    let buffers = Buffers::new();
    let (size, endless) = (layout(MOST, 8), layout(1 << 60, 8));
    // SAFETY: the buffer is freed once, with its layout.
    unsafe {
        let buffer = buffers.alloc(size);
        buffers.dealloc(buffer, size);
        assert_eq!(buffers.kept().bytes, MOST);
        assert!(buffers.alloc(endless).is_null());
    }
    let kept = buffers.kept();
    assert_eq!((kept.bytes, kept.used, kept.most), (0, 0, MOST));
}

#[test]
fn what_is_too_large_to_be_kept_moves_with_what_is_in_it() {
    let buffers = Buffers::new();
    let (size, larger) = (layout(MOST + 12_345, 128), layout(3 * MOST + 1, 128));
    // SAFETY: the buffer is used within its size and freed once, with its layout.
    unsafe {
        let first = buffers.alloc_zeroed(size);
        assert!(
            std::slice::from_raw_parts(first, size.size())
                .iter()
                .all(|&byte| byte == 0)
        );
        first.write_bytes(5, size.size());
        let moved = buffers.realloc(first, size, larger.size());
        assert_eq!(moved.addr() % ALIGNMENT, 0);
        assert!(
            std::slice::from_raw_parts(moved, size.size())
                .iter()
                .all(|&byte| byte == 5)
        );
        moved.add(larger.size() - 1).write(9);
        assert_eq!(buffers.kept().used, larger.size());
        let back = buffers.realloc(moved, larger, size.size());
        assert!(
            std::slice::from_raw_parts(back, size.size())
                .iter()
                .all(|&byte| byte == 5)
        );
        let kept = buffers.realloc(back, size, MOST);
        assert_eq!(*kept.add(MOST - 1), 5);
        buffers.dealloc(kept, layout(MOST, 128));
    }
    assert_eq!(buffers.kept().used, 0);
}
