package tpmattest

import "encoding/binary"

// cursor reads the TPM's big-endian structures (part 1, section 4). After the
// first read beyond the end, or of a length beyond its bound, everything it
// returns is zero and done reports false.
type cursor struct {
	rest []byte
	bad  bool
}

// take returns the next n bytes, which it does not copy.
func (c *cursor) take(n int) []byte {
	if c.bad || n < 0 || n > len(c.rest) {
		c.bad = true
		return nil
	}
	b := c.rest[:n:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) u8() uint8 {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// sized reads a TPM2B: u16 size | size bytes, at most limit.
func (c *cursor) sized(limit int) []byte {
	n := int(c.u16())
	if n > limit {
		c.bad = true
		return nil
	}
	return c.take(n)
}

// done reports whether everything was read, to the last byte.
func (c *cursor) done() bool { return !c.bad && len(c.rest) == 0 }
