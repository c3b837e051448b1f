package authstore

import "bytes"

// libsignal writes a session and a sender key as a JSON object, and passes over
// fields that it does not know. So our own data in such a row is one more field at
// the end of that object. It is taken off when the row is read. A library that
// does not know the field ignores it.

// lastField is such a field: the text in front of its value.
type lastField string

const (
	keptSent lastField = `,"KeptSent":` // a string: see beside.go
	usedDay  lastField = `,"UsedDay":`  // a number: see senderkeys.go
)

// takesField reports whether object is a JSON object with fields.
func takesField(object []byte) bool {
	n := len(object)
	return n > 2 && object[0] == '{' && object[n-1] == '}' && object[n-2] != '{'
}

// appendTo is object with the field. The object must be one that takesField.
func (f lastField) appendTo(object, value []byte) []byte {
	out := make([]byte, 0, len(object)+len(f)+len(value))
	out = append(out, object[:len(object)-1]...)
	out = append(out, f...)
	out = append(out, value...)
	return append(out, '}')
}

// cutFrom takes the field off. The object is a copy, and the value is a part of
// data; false when there is no such field.
func (f lastField) cutFrom(data []byte) (object, value []byte, ok bool) {
	at := bytes.LastIndex(data, []byte(f))
	if at < 0 || data[len(data)-1] != '}' {
		return nil, nil, false
	}
	return append(data[:at:at], '}'), data[at+len(f) : len(data)-1], true
}
