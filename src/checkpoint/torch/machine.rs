//! The machine that reads a pickle: a stack, a memo, and no way to call anything.

use super::opcode as op;
use super::value::{Id, Object, Pickle, Value};
use std::collections::HashMap;

/// Most values a pickle may build. A checkpoint's metadata has some tens for every piece of a
/// tensor; at 32 bytes a value this bounds memory to about 1 GiB.
pub const MAX_VALUES: usize = 1 << 25;
/// Longest line of the text opcodes of protocol 0.
const MAX_LINE: usize = 1 << 16;

/// Why bytes are no pickle.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Offset of the opcode at fault.
    pub(crate) at: usize,
    pub(crate) expected: String,
    pub(crate) found: String,
}

/// Every machine begins with these, so that one-byte opcodes cost no memory.
const SHARED: [Value; 3] = [Value::None, Value::Bool(false), Value::Bool(true)];

/// Runs the pickle at the start of `bytes` to its end. Returns how many bytes it took, too.
///
/// Time and memory are linear in what is read: every opcode moves the operands that earlier ones
/// pushed, and makes at most four values.
pub(super) fn run(bytes: &[u8]) -> Result<(Pickle, usize), Fault> {
    let mut machine = Machine {
        bytes,
        next: 0,
        opcode_at: 0,
        values: SHARED.to_vec(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        machine.opcode_at = machine.next;
        let opcode = machine.byte()?;
        if opcode == op::STOP {
            let root = machine.pop()?;
            let pickle = Pickle {
                values: machine.values,
                root,
            };
            return Ok((pickle, machine.next));
        }
        machine.step(opcode)?;
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    next: usize,
    opcode_at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack where a mark was set.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine<'_> {
    fn step(&mut self, opcode: u8) -> Result<(), Fault> {
        match opcode {
            op::PROTO => {
                let version = self.byte()?;
                if version > 5 {
                    return Err(self.fault("pickle protocol 0 to 5", version.to_string()));
                }
            }
            // Frames are hints for readers of streams.
            op::FRAME => drop(self.take(8)?),

            op::NONE => self.stack.push(Id(0)),
            op::NEWFALSE => self.stack.push(Id(1)),
            op::NEWTRUE => self.stack.push(Id(2)),
            op::BININT => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))?;
            }
            op::BININT1 => {
                let value = self.byte()?;
                self.push(Value::Int(value.into()))?;
            }
            op::BININT2 => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))?;
            }
            op::LONG1 => {
                let length = usize::from(self.byte()?);
                self.long(length)?;
            }
            op::LONG4 => {
                let length = self.length4()?;
                self.long(length)?;
            }
            op::INT | op::LONG => {
                let value = self.decimal(opcode)?;
                self.push(value)?;
            }
            op::FLOAT => {
                let line = self.line()?;
                let value = line.parse();
                let value = value.map_err(|_| self.fault("a number", format!("{line:?}")))?;
                self.push(Value::Float(value))?;
            }
            op::BINFLOAT => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Value::Float(value))?;
            }

            op::SHORT_BINUNICODE => {
                let length = usize::from(self.byte()?);
                self.text(length)?;
            }
            op::BINUNICODE => {
                let length = self.length4()?;
                self.text(length)?;
            }
            op::BINUNICODE8 => {
                let length = self.length8()?;
                self.text(length)?;
            }
            op::UNICODE => {
                let line = self.line()?.into();
                self.push(Value::Text(line))?;
            }
            op::STRING => {
                let line = self.line()?;
                let quoted = ['\'', '"']
                    .iter()
                    .find_map(|quote| line.strip_prefix(*quote)?.strip_suffix(*quote));
                let Some(text) = quoted else {
                    return Err(self.fault("a quoted string", format!("{line:?}")));
                };
                self.push(Value::Text(text.into()))?;
            }
            // Python 2's byte strings, which hold text in these files: module names, keys.
            op::SHORT_BINSTRING => {
                let length = usize::from(self.byte()?);
                self.byte_string(length)?;
            }
            op::BINSTRING => {
                let length = self.length4()?;
                self.byte_string(length)?;
            }
            op::SHORT_BINBYTES => {
                let length = usize::from(self.byte()?);
                self.byte_array(length)?;
            }
            op::BINBYTES => {
                let length = self.length4()?;
                self.byte_array(length)?;
            }
            op::BINBYTES8 | op::BYTEARRAY8 => {
                let length = self.length8()?;
                self.byte_array(length)?;
            }

            op::MARK => self.marks.push(self.stack.len()),
            op::POP => match self.marks.last() {
                Some(mark) if *mark == self.stack.len() => drop(self.marks.pop()),
                _ => drop(self.pop()?),
            },
            op::POP_MARK => drop(self.pop_mark()?),
            op::DUP => {
                let top = self.pop()?;
                self.stack.extend([top, top]);
            }

            op::EMPTY_TUPLE => self.push(Value::Tuple([].into()))?,
            op::TUPLE1 => self.tuple::<1>()?,
            op::TUPLE2 => self.tuple::<2>()?,
            op::TUPLE3 => self.tuple::<3>()?,
            op::TUPLE => {
                let items = self.pop_mark()?.into();
                self.push(Value::Tuple(items))?;
            }
            op::EMPTY_LIST => self.push(Value::List(Vec::new()))?,
            op::LIST => {
                let items = self.pop_mark()?;
                self.push(Value::List(items))?;
            }
            op::APPEND => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            op::APPENDS | op::ADDITEMS => {
                let items = self.pop_mark()?;
                self.extend(items)?;
            }
            op::EMPTY_SET => self.push(Value::Set(Vec::new()))?,
            op::FROZENSET => {
                let items = self.pop_mark()?;
                self.push(Value::Set(items))?;
            }
            op::EMPTY_DICT => self.push(Value::Dict(Vec::new()))?,
            op::DICT => {
                let items = self.pop_mark()?;
                let entries = self.pairs(&items)?;
                self.push(Value::Dict(entries))?;
            }
            op::SETITEM => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(vec![(key, value)])?;
            }
            op::SETITEMS => {
                let items = self.pop_mark()?;
                let entries = self.pairs(&items)?;
                self.insert(entries)?;
            }

            op::PUT => {
                let key = self.index()?;
                self.memoize(key)?;
            }
            op::BINPUT => {
                let key = self.byte()?.into();
                self.memoize(key)?;
            }
            op::LONG_BINPUT => {
                let key = u32::from_le_bytes(self.array()?);
                self.memoize(key)?;
            }
            op::MEMOIZE => {
                let key = self.memo.len() as u32;
                self.memoize(key)?;
            }
            op::GET => {
                let key = self.index()?;
                self.recall(key)?;
            }
            op::BINGET => {
                let key = self.byte()?.into();
                self.recall(key)?;
            }
            op::LONG_BINGET => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)?;
            }

            op::GLOBAL => {
                let global = self.global_lines()?;
                self.push(global)?;
            }
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id| matches!(self.value(id), Value::Text(_));
                if !(text(module) && text(name)) {
                    return Err(self.fault("the names of a module and a class", "others".into()));
                }
                self.push(Value::Global(module, name))?;
            }
            op::REDUCE | op::NEWOBJ => {
                let (args, class) = (self.pop()?, self.pop()?);
                self.object(class, args)?;
            }
            op::NEWOBJ_EX => {
                let (named, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.object(class, args)?;
                // Named arguments say what attributes would: fields by name.
                self.build(named)?;
            }
            op::INST => {
                let class = self.global_lines()?;
                let class = self.add(class)?;
                let args = self.pop_mark()?.into();
                let args = self.add(Value::Tuple(args))?;
                self.object(class, args)?;
            }
            op::OBJ => {
                let items = self.pop_mark()?;
                let Some((class, args)) = items.split_first() else {
                    return Err(self.fault("a class", "nothing".into()));
                };
                let args = self.add(Value::Tuple(args.into()))?;
                self.object(*class, args)?;
            }
            op::BUILD => {
                let state = self.pop()?;
                self.build(state)?;
            }
            op::PERSID => {
                let line = self.line()?.into();
                let id = self.add(Value::Text(line))?;
                self.push(Value::Persistent(id))?;
            }
            op::BINPERSID => {
                let id = self.pop()?;
                self.push(Value::Persistent(id))?;
            }

            other => {
                let found = format!("the byte {other:#04x}");
                return Err(self.fault("an opcode of a pickle of data", found));
            }
        }
        Ok(())
    }

    fn fault(&self, expected: &str, found: String) -> Fault {
        Fault {
            at: self.opcode_at,
            expected: expected.to_owned(),
            found,
        }
    }

    fn take(&mut self, length: usize) -> Result<&[u8], Fault> {
        let end = self.next.checked_add(length);
        let Some(end) = end.filter(|end| *end <= self.bytes.len()) else {
            let left = self.bytes.len() - self.next;
            let expected = format!("{length} more bytes of the pickle");
            return Err(self.fault(&expected, format!("{left}")));
        };
        let taken = &self.bytes[self.next..end];
        self.next = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("as many as were asked for"))
    }

    fn length4(&mut self) -> Result<usize, Fault> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn length8(&mut self) -> Result<usize, Fault> {
        let length = u64::from_le_bytes(self.array()?);
        // A length beyond the address space is beyond the file, too.
        Ok(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// The rest of the line, as the opcodes of protocol 0 have it.
    fn line(&mut self) -> Result<String, Fault> {
        let rest = &self.bytes[self.next..];
        let rest = &rest[..rest.len().min(MAX_LINE)];
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            return Err(self.fault("a line of text", "none that ends".into()));
        };
        let line = self.take(length + 1)?[..length].to_vec();
        String::from_utf8(line).map_err(|_| self.fault("text", "bytes that are no UTF-8".into()))
    }

    fn global_lines(&mut self) -> Result<Value, Fault> {
        let (module, name) = (self.line()?.into(), self.line()?.into());
        let module = self.add(Value::Text(module))?;
        let name = self.add(Value::Text(name))?;
        Ok(Value::Global(module, name))
    }

    fn index(&mut self) -> Result<u32, Fault> {
        let line = self.line()?;
        let index = line.parse();
        index.map_err(|_| self.fault("a place in the memo", format!("{line:?}")))
    }

    fn decimal(&mut self, opcode: u8) -> Result<Value, Fault> {
        let line = self.line()?;
        match (opcode, line.as_str()) {
            // Booleans before protocol 2.
            (op::INT, "00") => return Ok(Value::Bool(false)),
            (op::INT, "01") => return Ok(Value::Bool(true)),
            _ => {}
        }
        let digits = line.strip_suffix('L').unwrap_or(&line);
        let value = digits.parse::<i64>();
        value
            .map(Value::Int)
            .map_err(|_| self.fault("an integer of 64 bits", format!("{} digits", digits.len())))
    }

    /// An integer in two's complement. Reading it is linear in its length; it is never printed in
    /// decimal beyond 64 bits, which would not be.
    fn long(&mut self, length: usize) -> Result<(), Fault> {
        let bytes = self.take(length)?;
        let value = match bytes {
            [] => Value::Int(0),
            [.., last] if bytes.len() <= 8 => {
                let fill = if last & 0x80 == 0 { 0 } else { 0xff };
                let mut wide = [fill; 8];
                wide[..bytes.len()].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(wide))
            }
            _ => Value::Long(bytes.into()),
        };
        self.push(value)
    }

    fn text(&mut self, length: usize) -> Result<(), Fault> {
        let bytes = self.take(length)?;
        // Python writes lone surrogates ("surrogatepass"); they are shown, not refused.
        let text = String::from_utf8_lossy(bytes).into_owned().into();
        self.push(Value::Text(text))
    }

    fn byte_string(&mut self, length: usize) -> Result<(), Fault> {
        let bytes = self.take(length)?;
        let value = match std::str::from_utf8(bytes) {
            Ok(text) => Value::Text(text.into()),
            Err(_) => Value::Bytes(bytes.into()),
        };
        self.push(value)
    }

    fn byte_array(&mut self, length: usize) -> Result<(), Fault> {
        let bytes = self.take(length)?.into();
        self.push(Value::Bytes(bytes))
    }

    fn value(&self, id: Id) -> &Value {
        &self.values[id.0 as usize]
    }

    fn add(&mut self, value: Value) -> Result<Id, Fault> {
        if self.values.len() >= MAX_VALUES {
            let expected = format!("at most {MAX_VALUES} values");
            return Err(self.fault(&expected, "more".into()));
        }
        self.values.push(value);
        Ok(Id(self.values.len() as u32 - 1))
    }

    fn push(&mut self, value: Value) -> Result<(), Fault> {
        let id = self.add(value)?;
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.fault("an operand", "an empty stack".into()));
        }
        Ok(self.stack.pop().expect("not empty"))
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, Fault> {
        let Some(mark) = self.marks.pop() else {
            return Err(self.fault("a mark on the stack", "none".into()));
        };
        Ok(self.stack.split_off(mark))
    }

    fn pairs(&self, items: &[Id]) -> Result<Vec<(Id, Id)>, Fault> {
        if !items.len().is_multiple_of(2) {
            return Err(self.fault("keys with values", "a key without one".into()));
        }
        let pairs = items.chunks_exact(2).map(|pair| (pair[0], pair[1]));
        Ok(pairs.collect())
    }

    fn tuple<const N: usize>(&mut self) -> Result<(), Fault> {
        let mut items = [Id(0); N];
        for item in items.iter_mut().rev() {
            *item = self.pop()?;
        }
        self.push(Value::Tuple(items.into()))
    }

    fn top(&mut self) -> Result<Id, Fault> {
        let top = self.pop()?;
        self.stack.push(top);
        Ok(top)
    }

    fn extend(&mut self, items: Vec<Id>) -> Result<(), Fault> {
        let target = self.top()?;
        match &mut self.values[target.0 as usize] {
            Value::List(list) | Value::Set(list) => list.extend(items),
            Value::Object(object) => object.elements.extend(items),
            _ => return Err(self.fault("a list or set to append to", "another value".into())),
        }
        Ok(())
    }

    fn insert(&mut self, entries: Vec<(Id, Id)>) -> Result<(), Fault> {
        let target = self.top()?;
        match &mut self.values[target.0 as usize] {
            Value::Dict(dict) => dict.extend(entries),
            Value::Object(object) => object.entries.extend(entries),
            _ => return Err(self.fault("a dictionary to fill", "another value".into())),
        }
        Ok(())
    }

    fn object(&mut self, class: Id, args: Id) -> Result<(), Fault> {
        self.push(Value::Object(Box::new(Object {
            class,
            args,
            state: None,
            entries: Vec::new(),
            elements: Vec::new(),
        })))
    }

    fn build(&mut self, state: Id) -> Result<(), Fault> {
        let target = self.top()?;
        match &mut self.values[target.0 as usize] {
            Value::Object(object) => object.state = Some(state),
            _ => return Err(self.fault("an object to give a state", "another value".into())),
        }
        Ok(())
    }

    fn memoize(&mut self, key: u32) -> Result<(), Fault> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), Fault> {
        let Some(id) = self.memo.get(&key) else {
            return Err(self.fault("a place in the memo that was filled", key.to_string()));
        };
        self.stack.push(*id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Pickle {
        let (pickle, length) = run(bytes).expect("a pickle");
        assert_eq!(length, bytes.len());
        pickle
    }

    fn fault(bytes: &[u8]) -> String {
        let fault = run(bytes).expect_err("refused");
        format!("{}: {}, not {}", fault.at, fault.expected, fault.found)
    }

    /// `pickle.dumps({'a': [1, -2, 3.5], 'b': (True, None, 'é')}, 2)`.
    const PLAIN: &[u8] = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xff\
        G@\x0c\x00\x00\x00\x00\x00\x00eX\x01\x00\x00\x00bq\x03\x88NX\x02\x00\x00\x00\xc3\xa9q\x04\
        \x87q\x05u.";

    #[test]
    fn plain_data_is_read() {
        let pickle = read(PLAIN);
        let root = pickle.root();
        let a: Vec<_> = root.get("a").unwrap().elements().unwrap().collect();
        assert_eq!(
            (a[0].int(), a[1].int(), a[2].float()),
            (Some(1), Some(-2), Some(3.5))
        );
        let b: Vec<_> = root.get("b").unwrap().elements().unwrap().collect();
        assert_eq!((b[0].boolean(), b[2].text()), (Some(true), Some("é")));
        assert!(b[1].is_none());
    }

    #[test]
    fn a_pickle_cut_anywhere_is_refused() {
        for length in 0..PLAIN.len() {
            assert!(run(&PLAIN[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn calls_are_recorded_and_not_made() {
        // `os.system("touch /tmp/x")`, as an exploit has it.
        let pickle = read(b"cposix\nsystem\n(S'touch /tmp/x'\ntR.");
        assert_eq!(pickle.root().class(), Some(("posix", "system")));
        let args: Vec<_> = pickle.root().args().collect();
        assert_eq!(args[0].text(), Some("touch /tmp/x"));
    }

    #[test]
    fn attributes_and_entries_of_objects_are_kept() {
        // An `argparse.Namespace(layers=3)` and an `OrderedDict` with an entry and an attribute.
        let pickle = read(b"\x80\x02cargparse\nNamespace\n)\x81}X\x06\0\0\0layersK\x03sb.");
        assert_eq!(pickle.root().field("layers").unwrap().int(), Some(3));
        let pickle = read(b"\x80\x02ccollections\nOrderedDict\n)R(K\x01K\x02u}X\x01\0\0\0xNsb.");
        assert_eq!(pickle.root().entries().unwrap().count(), 1);
        assert!(pickle.root().field("x").unwrap().is_none());
    }

    #[test]
    fn integers_of_every_width_are_read() {
        let int = |bytes: &[u8]| read(bytes).root().int();
        assert_eq!(int(b"\x8a\x00."), Some(0));
        assert_eq!(int(b"\x8a\x01\xff."), Some(-1));
        assert_eq!(
            int(b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f."),
            Some(i64::MAX)
        );
        assert_eq!(int(b"\x8a\x09\0\0\0\0\0\0\0\0\x01."), None);
        assert_eq!(int(b"I-12\n."), Some(-12));
        assert_eq!(int(b"L7L\n."), Some(7));
        assert_eq!(read(b"I01\n.").root().boolean(), Some(true));
    }

    #[test]
    fn a_memo_bomb_costs_what_it_says() {
        // Each level names the one below ten times: 10^30 leaves, 30 lists.
        let mut bytes = b"\x80\x02]q\0".to_vec();
        for level in 1..=30 {
            bytes.extend(b"](");
            bytes.extend([b'h', level - 1].repeat(10));
            bytes.extend([b'e', b'q', level]);
        }
        bytes.push(b'.');
        // The lists below the last are left on the stack, as a hostile file may have it.
        assert!(read(&bytes).values.len() < 64);
    }

    #[test]
    fn nesting_needs_no_recursion() {
        let depth = 1_000_000;
        let mut bytes = b"]".repeat(depth);
        bytes.extend(b"a".repeat(depth - 1));
        bytes.push(b'.');
        let pickle = read(&bytes);
        assert_eq!(
            format!("{:.20}", pickle.root().shown()).chars().next(),
            Some('[')
        );
        drop(pickle);
    }

    #[test]
    fn malformed_pickles_are_refused_with_their_place() {
        insta::assert_snapshot!(
            [
                fault(b""),
                fault(b"\x80\x06."),
                fault(b"\x8b\xff\xff\xff\x7f1."),
                fault(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff."),
                fault(b"h\x05."),
                fault(b"t."),
                fault(b"R."),
                fault(b"(K\x01d."),
                fault(b"K\x01K\x02a."),
                fault(b"K\x01}b."),
                fault(b"\x82\x01."),
                fault(b"(0(K\x010."),
                fault(b"Ione\n."),
                fault(b"cposix"),
                fault(b"K\x01K\x02\x93."),
            ]
            .join("\n"),
            @r#"
            0: 1 more bytes of the pickle, not 0
            0: pickle protocol 0 to 5, not 6
            0: 2147483647 more bytes of the pickle, not 2
            0: 18446744073709551615 more bytes of the pickle, not 1
            0: a place in the memo that was filled, not 5
            0: a mark on the stack, not none
            0: an operand, not an empty stack
            3: keys with values, not a key without one
            4: a list or set to append to, not another value
            3: an object to give a state, not another value
            0: an opcode of a pickle of data, not the byte 0x82
            6: an operand, not an empty stack
            0: an integer of 64 bits, not 3 digits
            0: a line of text, not none that ends
            4: the names of a module and a class, not others
            "#
        );
    }
}
