package postgresbackend

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// escape turns any bytes into a text that Postgres takes, and that people can
// read: invalid bytes, a zero byte, and % stand as %XX.
func escape(id string) string {
	var out strings.Builder
	for i, r := range id {
		if r == 0 || r == '%' || r == utf8.RuneError && !strings.HasPrefix(id[i:], "\uFFFD") {
			fmt.Fprintf(&out, "%%%02X", id[i])
		} else {
			out.WriteRune(r)
		}
	}
	return out.String()
}

func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		var c byte
		if s[i] == '%' && i+2 < len(s) {
			if _, err := fmt.Sscanf(s[i+1:i+3], "%02X", &c); err == nil {
				out.WriteByte(c)
				i += 2
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
