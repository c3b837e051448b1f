package stability

import (
	"fmt"
	"io"
	"strings"

	"rsc.io/qr"
)

// PrintQR is for WithQR: it draws each code on w, which is a terminal, with a line
// that says what to do with it.
func PrintQR(w io.Writer) func(QR) {
	return func(q QR) {
		drawn, err := q.Terminal()
		if err != nil {
			fmt.Fprintf(w, "The code cannot be drawn: %v\n", err)
			return
		}
		fmt.Fprintf(w, "Scan with the phone: Linked devices, Link a device.\n%s\n", drawn)
	}
}

// Terminal draws the code in half blocks, two rows of modules to a line, dark
// on light whatever the terminal's colours are.
func (q QR) Terminal() (string, error) {
	code, err := qr.Encode(q.Code, qr.L)
	if err != nil {
		return "", fmt.Errorf("stability: draw the code: %w", err)
	}
	const quiet = 2
	light := func(x, y int) bool {
		x, y = x-quiet, y-quiet
		return x < 0 || y < 0 || x >= code.Size || y >= code.Size || !code.Black(x, y)
	}
	var b strings.Builder
	for y := 0; y < code.Size+2*quiet; y += 2 {
		b.WriteString("\x1b[97;40m") // light ink on dark paper: a light module is drawn
		for x := 0; x < code.Size+2*quiet; x++ {
			switch top, bottom := light(x, y), light(x, y+1); {
			case top && bottom:
				b.WriteString("█")
			case top:
				b.WriteString("▀")
			case bottom:
				b.WriteString("▄")
			default:
				b.WriteString(" ")
			}
		}
		b.WriteString("\x1b[0m\n")
	}
	return b.String(), nil
}

// PNG draws the code as an image, eight pixels to a module.
func (q QR) PNG() ([]byte, error) {
	code, err := qr.Encode(q.Code, qr.L)
	if err != nil {
		return nil, fmt.Errorf("stability: draw the code: %w", err)
	}
	return code.PNG(), nil
}
