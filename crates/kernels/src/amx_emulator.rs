//! The few instructions of AMX that this crate uses, on any x86-64 Linux: a handler of SIGILL that decodes the instruction that the CPU refused,
//! does what Intel's manual says it does, and goes on behind it. Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2.

use std::cell::UnsafeCell;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Instructions emulated so far.
pub(super) static EMULATED: AtomicUsize = AtomicUsize::new(0);

/// A thread's tiles.
struct State {
    bytes_a_row: [usize; 8],
    rows: [usize; 8],
    tiles: [[u8; 1024]; 8],
}

thread_local! {
    static STATE: UnsafeCell<State> = const {
        UnsafeCell::new(State { bytes_a_row: [0; 8], rows: [0; 8], tiles: [[0; 1024]; 8] })
    };
}

/// From now on this process has AMX.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a zeroed `sigaction` is one without flags; the handler has the signature that SA_SIGINFO asks for.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            assert_eq!(libc::sigaction(libc::SIGILL, &raw const action, ptr::null_mut()), 0);
        }
    });
}

extern "C" fn handler(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system hands a `ucontext_t` to a handler with SA_SIGINFO, and the instruction pointer points at an instruction.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let at = registers[libc::REG_RIP as usize] as *const u8;
        match STATE.with(|state| emulate(at, registers, &mut *state.get())) {
            Some(length) => {
                EMULATED.fetch_add(1, Ordering::Relaxed);
                registers[libc::REG_RIP as usize] += length as i64;
            }
            None => {
                // Another illegal instruction: on return it is met again, and ends the process.
                libc::signal(libc::SIGILL, libc::SIG_DFL);
            }
        }
    }
}

/// Registers by their number in an instruction.
const REGISTERS: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Does the instruction at `at` and gives its length; `None`: it is none of these.
///
/// # Safety
/// `at` points at an instruction, whose addresses are what its program means.
unsafe fn emulate(at: *const u8, registers: &[i64; 23], state: &mut State) -> Option<usize> {
    let register = |number: usize| registers[REGISTERS[number] as usize] as usize;
    // SAFETY: an instruction is at least as long as what has been decoded of it says.
    let byte = |offset: usize| unsafe { *at.add(offset) };
    // The three-byte VEX prefix: C4, [R X B mmmmm], [W vvvv L pp], of which R, X, B and vvvv are inverted.
    if byte(0) != 0xc4 {
        return None;
    }
    let (first, second, opcode, modrm) = (byte(1), byte(2), byte(3), byte(4));
    let (index_high, base_high) = ((!first >> 6 & 1) as usize * 8, (!first >> 5 & 1) as usize * 8);
    // Map 0F38, W0, 128 bits, and tile registers 0 to 7 alone.
    if first & 0x1f != 2 || second & 0x84 != 0 || !first >> 7 != 0 {
        return None;
    }
    let third = (!second >> 3 & 15) as usize;
    let (mode, reg, rm) = (modrm >> 6, (modrm >> 3 & 7) as usize, (modrm & 7) as usize);
    // Of an operand in memory: its address, the stride that its index register holds, and the instruction's length.
    let memory = || {
        let (mut length, base, stride) = if rm == 4 {
            let sib = byte(5);
            let index = (sib >> 3 & 7) as usize | index_high;
            let stride = if index == 4 { 0 } else { register(index) << (sib >> 6) };
            (6, (sib & 7) as usize | base_high, stride)
        } else {
            (5, rm | base_high, 0)
        };
        let displacement = match mode {
            0 if base % 8 != 5 => 0,
            1 => {
                length += 1;
                i64::from(byte(length - 1) as i8)
            }
            2 => {
                length += 4;
                i64::from(i32::from_le_bytes([
                    byte(length - 4),
                    byte(length - 3),
                    byte(length - 2),
                    byte(length - 1),
                ]))
            }
            _ => return None,
        };
        Some((register(base).wrapping_add(displacement as usize), stride, length))
    };
    match (opcode, second & 3, mode) {
        // ldtilecfg m512
        (0x49, 0, 0..=2) if reg == 0 => {
            let (address, _, length) = memory()?;
            // SAFETY: the program means 64 bytes there.
            let shapes = unsafe { ptr::read_unaligned(address as *const [u8; 64]) };
            assert_eq!((shapes[0], shapes[1]), (1, 0), "palette and first row");
            for tile in 0..8 {
                state.bytes_a_row[tile] =
                    usize::from(u16::from_le_bytes([shapes[16 + 2 * tile], shapes[17 + 2 * tile]]));
                state.rows[tile] = usize::from(shapes[48 + tile]);
                assert!(state.bytes_a_row[tile] <= 64 && state.rows[tile] <= 16);
                state.tiles[tile] = [0; 1024];
            }
            Some(length)
        }
        // tilerelease
        (0x49, 0, 3) if modrm == 0xc0 => {
            *state = State {
                bytes_a_row: [0; 8],
                rows: [0; 8],
                tiles: [[0; 1024]; 8],
            };
            Some(5)
        }
        // tilezero tmm
        (0x49, 3, 3) if rm == 0 => {
            assert!(state.rows[reg] > 0, "the tile has a shape");
            state.tiles[reg] = [0; 1024];
            Some(5)
        }
        // tileloadd tmm, sibmem, and tilestored sibmem, tmm
        (0x4b, 3 | 2, 0..=2) if rm == 4 => {
            let (address, stride, length) = memory()?;
            let bytes = state.bytes_a_row[reg];
            assert!(state.rows[reg] > 0, "the tile has a shape");
            for (row, values) in state.tiles[reg].chunks_exact_mut(64).take(state.rows[reg]).enumerate() {
                let there = address.wrapping_add(row.wrapping_mul(stride)) as *mut u8;
                // SAFETY: the program means so many bytes in every row there.
                unsafe {
                    if second & 3 == 3 {
                        ptr::copy_nonoverlapping(there, values.as_mut_ptr(), bytes);
                    } else {
                        ptr::copy_nonoverlapping(values.as_ptr(), there, bytes);
                    }
                }
            }
            Some(length)
        }
        // tdpbf16ps tmm, tmm, tmm
        (0x5c, 2, 3) => {
            let (sum, left, right) = (reg, rm, third);
            assert!(sum != left && sum != right && left != right, "three tiles");
            assert_eq!(state.rows[right], state.bytes_a_row[left] / 4, "inner sizes");
            let (left, right) = (state.tiles[left], state.tiles[right]);
            let pairs = state.bytes_a_row[rm] / 4;
            for row in 0..state.rows[sum] {
                for col in 0..state.bytes_a_row[sum] / 4 {
                    let to = &mut state.tiles[sum][row * 64 + col * 4..][..4];
                    let pair = |tile: &[u8; 1024], row: usize, col: usize| {
                        let at = &tile[row * 64 + col * 4..][..4];
                        [u16::from_le_bytes([at[0], at[1]]), u16::from_le_bytes([at[2], at[3]])]
                    };
                    let products = (0..pairs).map(|p| (pair(&left, row, p), pair(&right, p, col)));
                    let start = f32::from_le_bytes([to[0], to[1], to[2], to[3]]);
                    to.copy_from_slice(&dot(start, products).to_le_bytes());
                }
            }
            Some(5)
        }
        _ => None,
    }
}

/// `start + sum` of pairs of bf16, as the manual adds them: both members of the pairs on their own, then one to the other, then to the start;
/// rounded to nearest, without subnormal numbers.
pub(super) fn dot(start: f32, pairs: impl Iterator<Item = ([u16; 2], [u16; 2])>) -> f32 {
    let flushed = |x: f32| if x.is_subnormal() { 0.0_f32.copysign(x) } else { x };
    let value = |bits: u16| flushed(f32::from_bits(u32::from(bits) << 16));
    let mut sums = [0.0_f32; 2];
    for (x, y) in pairs {
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            *sum = flushed(value(x).mul_add(value(y), *sum));
        }
    }
    flushed(flushed(start) + flushed(sums[0] + sums[1]))
}
