package firestorebackend

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	maxRoot = 500 // bytes; part of every name, so part of what a request may weigh
	maxName = 300 // bytes of an escaped id; longer ones are hashed
)

// checkRoot says what is wrong with the path of the account's document.
func checkRoot(path string) error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("firestorebackend: WithRoot(%q): %s: pass the path of a document, such as %q", path, fmt.Sprintf(format, a...), DefaultRoot)
	}
	if len(path) > maxRoot {
		return fmt.Errorf("firestorebackend: WithRoot: the path has %d bytes: use at most %d", len(path), maxRoot)
	}
	segments := strings.Split(path, "/")
	for i, s := range segments {
		switch {
		case s == "" && (i == 0 || i == len(segments)-1):
			return bad("it begins or ends with a slash")
		case s == "":
			return bad("a segment is empty")
		case !utf8.ValidString(s):
			return bad("segment %q is not valid UTF-8", s)
		case s == "." || s == "..", reserved(s):
			return bad("Firestore does not allow the id %q", s)
		}
	}
	if len(segments)%2 != 0 {
		return bad("it has %d segments, which makes it a collection; a document has an even number", len(segments))
	}
	return nil
}

// reserved says whether Firestore keeps the id to itself: __.*__.
func reserved(s string) bool {
	return len(s) >= 4 && strings.HasPrefix(s, "__") && strings.HasSuffix(s, "__")
}

// escape turns any bytes into a name that Firestore takes as part of a
// document id, or as a field with slash set, in a form that an operator can
// read. A character that is not plain stands as %XX; a prefix stays a prefix.
func escape(id string, slash bool) string {
	plain := func(i int) bool {
		c := id[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			return true
		case c == '_':
			return i > 0 // __x__ is Firestore's own
		case c == '/':
			return slash
		}
		return strings.IndexByte(".:@+,-", c) >= 0
	}
	var out strings.Builder
	for i := range len(id) {
		if plain(i) {
			out.WriteByte(id[i])
		} else {
			fmt.Fprintf(&out, "%%%02X", id[i])
		}
	}
	return out.String()
}

// unescape is the way back; ok is false for what escape does not write.
func unescape(name string) (id string, ok bool) {
	out := make([]byte, 0, len(name))
	for i := 0; i < len(name); i++ {
		if name[i] != '%' {
			out = append(out, name[i])
			continue
		}
		if i+2 >= len(name) {
			return "", false
		}
		var c [1]byte
		if _, err := hex.Decode(c[:], []byte(name[i+1:i+3])); err != nil {
			return "", false
		}
		out = append(out, c[0])
		i += 2
	}
	return string(out), true
}

// hashed is the name of an id whose own form is too long. escape never writes
// its first byte.
func hashed(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "=" + hex.EncodeToString(sum[:])
}

func isHashed(name string) bool { return strings.HasPrefix(name, "=") }

// shorten is escape, or the hash of what would be too long.
func shorten(id string, slash bool) string {
	if name := escape(id, slash); len(name) <= maxName {
		return name
	}
	return hashed(id)
}
