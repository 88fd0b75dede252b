/* The floor under `jailmk tree`: opens each file that is named on standard input, one a line, and reads
 * the first kilobyte of it, where nearly every ELF header and program header table is. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int main(void)
{
    char path[4096], head[1024];
    long total = 0;
    while (fgets(path, sizeof path, stdin)) {
        struct stat there;
        path[strcspn(path, "\n")] = 0;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        fstat(fd, &there);
        total += pread(fd, head, sizeof head, 0);
        close(fd);
    }
    return total == 0;
}
