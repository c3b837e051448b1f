package authstore

import (
	"bytes"
	"math"
)

// A session is parsed when it is first asked for, and libsignal takes its time:
// 256 of them are what a start waits for most. So a session is first compared
// with the one form in which libsignal writes them: JSON without blanks, fields
// in the order of its structures. A record of that form, with keys where keys
// belong, is one that libsignal parses. Anything else, also a form of another
// version of libsignal, is given to libsignal itself, whose word counts.

// wellKnownSession reports whether b certainly parses. False says nothing.
func wellKnownSession(b []byte) bool {
	f := form{b: b}
	f.lit(`{"SessionState":`)
	f.state()
	f.lit(`,"PreviousStates":`)
	f.list(f.state)
	f.lit(`}`)
	return !f.other && len(f.b) == 0
}

// form compares bytes with a form, piece by piece.
type form struct {
	b     []byte
	other bool // they have another one
}

func (f *form) is(s string) bool {
	if f.other || len(f.b) < len(s) || string(f.b[:len(s)]) != s {
		return false
	}
	f.b = f.b[len(s):]
	return true
}

func (f *form) lit(s string) { f.other = !f.is(s) }

func (f *form) state() {
	f.lit(`{"LocalIdentityPublic":`)
	f.key()
	f.lit(`,"LocalRegistrationID":`)
	f.number()
	f.lit(`,"NeedsRefresh":`)
	f.bool()
	f.lit(`,"PendingKeyExchange":null,"PendingPreKey":`)
	if !f.is(`null`) {
		f.lit(`{"PreKeyID":`)
		if !f.is(`null`) {
			f.lit(`{"Value":`)
			f.number()
			f.lit(`,"IsEmpty":`)
			f.bool()
			f.lit(`}`)
		}
		f.lit(`,"SignedPreKeyID":`)
		f.number()
		f.lit(`,"BaseKey":`)
		f.key()
		f.lit(`}`)
	}
	f.lit(`,"PreviousCounter":`)
	f.number()
	f.lit(`,"ReceiverChains":`)
	f.list(f.chain)
	f.lit(`,"RemoteIdentityPublic":`)
	f.key()
	f.lit(`,"RemoteRegistrationID":`)
	f.number()
	f.lit(`,"RootKey":`)
	f.bytes()
	f.lit(`,"SenderBaseKey":`)
	f.key()
	f.lit(`,"SenderChain":`)
	f.chain()
	f.lit(`,"SessionVersion":`)
	f.numberTo(math.MaxInt32) // an int
	f.lit(`}`)
}

func (f *form) chain() {
	f.lit(`{"SenderRatchetKeyPublic":`)
	f.key()
	f.lit(`,"SenderRatchetKeyPrivate":`)
	if !f.is(`null`) {
		f.bytes()
	}
	f.lit(`,"ChainKey":{"Key":`)
	f.bytes()
	f.lit(`,"Index":`)
	f.number()
	f.lit(`},"MessageKeys":`)
	f.list(func() {
		f.lit(`{"CipherKey":`)
		f.bytes()
		f.lit(`,"MacKey":`)
		f.bytes()
		f.lit(`,"IV":`)
		f.bytes()
		f.lit(`,"Index":`)
		f.number()
		f.lit(`}`)
	})
	f.lit(`}`)
}

func (f *form) list(element func()) {
	if f.lit(`[`); f.is(`]`) {
		return
	}
	for !f.other {
		if element(); f.is(`]`) {
			return
		}
		f.lit(`,`)
	}
}

func (f *form) bool() {
	if !f.is(`true`) {
		f.lit(`false`)
	}
}

// number is a uint32.
func (f *form) number() { f.numberTo(math.MaxUint32) }

func (f *form) numberTo(most uint64) {
	n, v := 0, uint64(0)
	for ; n < len(f.b) && n < 11 && '0' <= f.b[n] && f.b[n] <= '9'; n++ {
		v = 10*v + uint64(f.b[n]-'0')
	}
	if n == 0 || n > 1 && f.b[0] == '0' || v > most {
		f.other = true
		return
	}
	f.b = f.b[n:]
}

// bytes is base64 with padding. It gives what stands between the quotes.
func (f *form) bytes() []byte {
	f.lit(`"`)
	end := bytes.IndexByte(f.b, '"')
	if f.other || end < 0 || end%4 != 0 {
		f.other = true
		return nil
	}
	text := f.b[:end]
	f.b = f.b[end+1:]
	digits := bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("=")), []byte("="))
	for _, c := range digits {
		if base64Digits[c] == 0 {
			f.other = true
			return nil
		}
	}
	return text
}

// base64Digits has 1 + the value of each digit.
var base64Digits = func() (t [256]byte) {
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		t[c] = byte(i + 1)
	}
	return t
}()

// key is the public key of a curve: its type and 32 bytes.
func (f *form) key() {
	const size, djbType = 44, 5 // digits of 33 bytes
	text := f.bytes()
	if f.other || len(text) != size || text[size-1] == '=' {
		f.other = true
		return
	}
	if one, two := base64Digits[text[0]]-1, base64Digits[text[1]]-1; one<<2|two>>4 != djbType {
		f.other = true
	}
}
